"""A task's phases as data: how many steps each has is a function of the settings alone.

Nothing here needs torch: who checks a job's settings counts its steps with the same lines as the task that trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Stretch:
    """A phase, or one for each item of a setting.

    Stretches in a row over the same setting take turns: all phases of its first item, then all of its second.
    """

    name: str  # of the phase; with `each`, the item follows
    steps: tuple[str, ...] = ("steps",)  # settings: the first that says anything; of a list, the item's own entry
    each: str | None = None  # a setting that is a list
    unless_zero: str | None = None  # a setting: 0 leaves the stretch out
    given: bool = False  # a base model brings what it would learn: 0 steps then, unless the first of `steps` says more

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> Stretch:
        """What `dataclasses.asdict` gave, and JSON made of it."""
        return cls(**{**described, "steps": tuple(described["steps"])})

    def count(self, config: Mapping[str, Any], place: int, *, based: bool) -> int:
        """Steps of the phase at `place` of `each`."""
        settings = self.steps[:1] if self.given and based else self.steps
        for setting in settings:
            value = config[setting]
            if isinstance(value, list | tuple):
                if value:
                    return int(value[place]) if place < len(value) else 0  # the task refuses such a list
            elif value is not None:
                return int(value)
        return 0


def planned(stretches: Sequence[Stretch], config: Mapping[str, Any], *, based: bool) -> list[tuple[str, int]]:
    """Name and steps of every phase, in order.

    config: complete. based: the task starts from a base model.
    """
    phases: list[tuple[str, int]] = []
    for each, group in groupby(stretches, key=lambda stretch: stretch.each):
        together = [s for s in group if s.unless_zero is None or config[s.unless_zero] != 0]
        for place, item in enumerate([""] if each is None else config[each]):
            phases += [(f"{s.name}{item}", s.count(config, place, based=based)) for s in together]
    return phases
