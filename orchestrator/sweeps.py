"""Sweeps as pure logic: which settings are tried, and which trials go on.

ASHA is the asynchronous successive halving of Li et al. 2018 (arXiv:1810.05934), algorithm 2: a trial is promoted to
the next rung as soon as it is among the best 1/reduction of those that have finished its rung. Unlike there, the best
trial of a rung goes on in any case once nothing below it can finish any more: one trial always gets all of the steps.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Settings = Mapping[str, Any]


class Range(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False  # every factor is as likely, not every difference
    integer: bool = False


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last setting changing fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def samples(space: Mapping[str, Sequence[Any] | Range], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` random choices; the first ones of a larger count with the same seed are the same."""
    source = random.Random(seed)
    return [{name: _drawn(source, choice) for name, choice in space.items()} for _ in range(count)]


def _drawn(source: random.Random, choice: Sequence[Any] | Range) -> Any:
    if not isinstance(choice, Range):
        return choice[source.randrange(len(choice))]
    u = source.random()
    if choice.log:
        value = math.exp(math.log(choice.low) + u * (math.log(choice.high) - math.log(choice.low)))
    else:
        value = choice.low + u * (choice.high - choice.low)
    value = min(max(value, choice.low), choice.high)
    return min(max(round(value), math.ceil(choice.low)), math.floor(choice.high)) if choice.integer else value


def rung_steps(min_steps: int, reduction: int, most: int) -> list[int]:
    """Steps at the end of each rung: `min_steps`, times `reduction` each, the last one `most`."""
    steps = []
    while min_steps < most:
        steps.append(min_steps)
        min_steps *= reduction
    return [*steps, most]


class Trial(NamedTuple):
    """Where a trial stands."""

    number: int
    rung: int  # the highest that it has begun
    finished: bool  # that rung: its value is known
    active: bool  # its job goes on, or may be done again: a value may still come
    values: tuple[float | None, ...]  # at the end of each finished rung; None: it has no such metric


class Promotion(NamedTuple):
    number: int
    to: int


def promotions(trials: Sequence[Trial], *, rungs: int, reduction: int, mode: str) -> list[Promotion]:
    """Which trials go on to their next rung now, those of higher rungs first.

    mode: min or max. Of equal values the lower number is the better one.
    """
    found = []
    for rung in reversed(range(rungs - 1)):
        order = ranking(trials, rung, mode)
        best = order[: len(order) // reduction]
        if not best and order and _nobody_comes(trials, rung):
            best = order[:1]
        found += [Promotion(t.number, rung + 1) for t in best if t.rung == rung and t.finished]
    return found


def ranking(trials: Sequence[Trial], rung: int, mode: str) -> list[Trial]:
    """The trials that have finished a rung with a finite value, best first."""
    sign = 1.0 if mode == "min" else -1.0
    valued = [(value, t) for t in trials if (value := value_at(t, rung)) is not None]
    return [t for _, t in sorted(valued, key=lambda pair: (sign * pair[0], pair[1].number))]


def value_at(trial: Trial, rung: int) -> float | None:
    """What it had at the end of a rung; None where it has not come to it, or has no finite value there."""
    value = trial.values[rung] if rung < len(trial.values) else None
    return value if value is not None and math.isfinite(value) else None


def is_stopped(trial: Trial, trials: Sequence[Trial], *, rungs: int, reduction: int, mode: str) -> bool:
    """Whether it ended below the top, and nothing that still runs can change that."""
    if not trial.finished or trial.rung == rungs - 1:
        return False
    if any(p.number == trial.number for p in promotions(trials, rungs=rungs, reduction=reduction, mode=mode)):
        return False
    return value_at(trial, trial.rung) is None or _nobody_comes(trials, trial.rung)


def _nobody_comes(trials: Sequence[Trial], rung: int) -> bool:
    """Whether no trial will finish this rung any more: what runs is above it."""
    return not any(t.active and t.rung <= rung for t in trials)
