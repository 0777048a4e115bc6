"""Training at growing resolution: stages of crop size, batch and normalisation window, a function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """A stretch of training at one resolution."""

    size: int  # side of the crops, pixels
    batch: int  # pictures of each kind per update
    window: int  # of the norms, pixels
    until: int  # the first step that is not in it


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage of a step, counted from 0; the last one goes on."""
    return next((stage for stage in stages if step < stage.until), stages[-1])


def stages_until(stages: Sequence[Stage], steps: int) -> list[Stage]:
    """Those that a training of so many steps gets to."""
    return [stage for number, stage in enumerate(stages) if number == 0 or stages[number - 1].until < steps]


def checked_stages(
    name: str, given: Sequence[Sequence[int]], *, least_size: int, multiple: int, least_window: int
) -> list[Stage]:
    """Stages from a setting's numbers. Raises ValueError that begins with the setting's `name`."""
    if not given:
        raise ValueError(f"{name}: no stage was given; null trains at one size from start to end")
    stages = [Stage(*numbers) for numbers in given]
    begins = 0
    for number, stage in enumerate(stages, start=1):
        where = f"{name}: stage {number}"
        if stage.size < least_size or stage.size % multiple:
            raise ValueError(
                f"{where} has crops of {stage.size} px, allowed are multiples of {multiple} from {least_size}"
            )
        if stage.batch < 1:
            raise ValueError(f"{where} has a batch of {stage.batch}, it must be at least 1")
        if stage.window < least_window:
            raise ValueError(f"{where} has a window of {stage.window} px, it must be at least {least_window}")
        if stage.until <= begins:
            raise ValueError(f"{where} ends at step {stage.until}, but begins at {begins}")
        begins = stage.until
    return stages
