"""A sweep's trials as a drawing: lines from rung to rung, or dots over the first setting that is a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT, MARGIN = 640, 260, 44  # of the drawing, in its own units


class Line(NamedTuple):
    """One trial: where it was, in the drawing's units."""

    number: int
    points: list[tuple[float, float]]
    best: bool

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


class Tick(NamedTuple):
    at: float
    text: str


class Chart(NamedTuple):
    lines: list[Line]
    across: str  # what the horizontal axis is
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def chart(sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], best: int | None) -> Chart | None:
    """None as long as no trial has a value.

    sweep: its `spec`. trials: {"number", "params", "values", "value"}.
    """
    rungs: list[int] = sweep["rungs"]
    if rungs:
        across, log = "steps", True
        places = {t["number"]: list(zip(rungs, t["values"], strict=False)) for t in trials}
    else:
        across, log = _varied(sweep, trials)
        places = {t["number"]: [(_place(t, across), t["value"])] for t in trials}
    known = {number: [point for point in points if all(map(_is_finite, point))] for number, points in places.items()}
    flat = [point for points in known.values() for point in points]
    if not flat:
        return None
    to_x, x_ticks = _axis([x for x, _ in flat], MARGIN, WIDTH - 12, log=log)
    to_y, y_ticks = _axis([y for _, y in flat], HEIGHT - MARGIN + 14, 12, log=False)
    lines = [
        Line(number, [(to_x(x), to_y(y)) for x, y in points], number == best)
        for number, points in known.items()
        if points
    ]
    return Chart(lines, across, x_ticks, y_ticks)


def _varied(sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """The first setting whose values are numbers, and whether they are best seen as powers; else the trial's number."""
    for name, choice in sweep["space"].items():
        values = [trial["params"][name] for trial in trials]
        if all(_is_finite(value) for value in values):
            return name, isinstance(choice, dict) and bool(choice.get("log"))
    return "trial", False


def _place(trial: Mapping[str, Any], across: str) -> Any:
    return trial["number"] if across == "trial" else trial["params"][across]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> tuple[Any, list[Tick]]:
    """From values to places, and ticks at both ends and in the middle."""
    log = log and min(values) > 0
    forward = math.log if log else float
    low, high = forward(min(values)), forward(max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5

    def place(value: float) -> float:
        return start + (forward(value) - low) / (high - low) * (end - start)

    back = math.exp if log else float
    return place, [Tick(start + u * (end - start), f"{back(low + u * (high - low)):.3g}") for u in (0.0, 0.5, 1.0)]
