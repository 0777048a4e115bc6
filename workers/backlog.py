"""Metrics and log lines on their way to SQL: compact, in order, and bounded however long an outage lasts."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BATCH_POINTS = 5000  # in one transaction and one event
BATCH_LINES = 200
KEPT_LINES = 2000  # the oldest of more are dropped, which a line then says
LINE_CHARACTERS = 4000


@dataclass(frozen=True)
class Chunk:
    """What goes into one transaction."""

    points: Mapping[str, list[tuple[int, float]]]
    lines: list[Mapping[str, Any]]
    through: int | None  # every metric up to this step is in or was sent before; None: every one that there is


class Backlog:
    """A queue of points and lines. Whoever uses it from several threads locks it."""

    def __init__(self) -> None:
        self._names: list[str] = []
        # 18 bytes a point: half an hour of fast steps stays below 100 MB.
        self._steps, self._name_numbers, self._values = array("q"), array("H"), array("d")
        self._lines: deque[Mapping[str, Any]] = deque()
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._steps or self._lines)

    def add_terms(self, step: int, terms: Mapping[str, float]) -> None:
        """The metrics of one step; steps come in rising order."""
        for name, value in terms.items():
            if name not in self._names:
                self._names.append(name)
            self._steps.append(step)
            self._name_numbers.append(self._names.index(name))
            self._values.append(value)

    def add_line(self, line: Mapping[str, Any]) -> None:
        """A log line {"at", "level", "text"}; a long text is cut."""
        text = str(line["text"])
        if len(text) > LINE_CHARACTERS:
            text = f"{text[:LINE_CHARACTERS]}… ({len(text) - LINE_CHARACTERS} more characters)"
        self._lines.append({**line, "text": text})
        if len(self._lines) > KEPT_LINES:
            self._lines.popleft()
            self._dropped += 1

    def take(self) -> Chunk:
        """Remove and return what one transaction carries; a step is never cut in two."""
        end = min(BATCH_POINTS, len(self._steps))
        while 0 < end < len(self._steps) and self._steps[end] == self._steps[end - 1]:
            end += 1
        points: dict[str, list[tuple[int, float]]] = {}
        for step, number, value in zip(self._steps[:end], self._name_numbers[:end], self._values[:end], strict=True):
            points.setdefault(self._names[number], []).append((step, value))
        through = self._steps[end - 1] if end < len(self._steps) else None
        del self._steps[:end], self._name_numbers[:end], self._values[:end]
        return Chunk(points, self._take_lines(), through)

    def _take_lines(self) -> list[Mapping[str, Any]]:
        lines = [self._lines.popleft() for _ in range(min(BATCH_LINES, len(self._lines)))]
        if self._dropped:
            told = f"{self._dropped} log lines were dropped here: more came than could be sent"
            lines.insert(0, {"at": lines[0]["at"], "level": "warning", "text": told})
            self._dropped = 0
        return lines
