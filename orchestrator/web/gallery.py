"""Preview pictures as a table: a row for each step, a column for each picture, what went in above it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.store.tables import Sample

INPUTS = ("style-", "content-")  # the same at every step: shown once


@dataclass(frozen=True)
class Column:
    """A picture that is drawn anew at every preview, and the pictures that it was made from."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Everything to show. rows: newest step first, each with the names that it has."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[int, frozenset[str]], ...]
    newest_step: int


def gallery(samples: Sequence[Sample]) -> Gallery | None:
    """None while there are no pictures."""
    if not samples:
        return None
    by_step: dict[int, set[str]] = {}
    for sample in samples:
        by_step.setdefault(sample.step, set()).add(sample.name)
    newest = max(by_step)
    drawn = [name for name in in_order({s.name for s in samples}) if not name.startswith(INPUTS)]
    columns = tuple(Column(name, inputs_of(name, by_step[newest])) for name in drawn)
    rows = tuple((step, frozenset(by_step[step])) for step in sorted(by_step, reverse=True))
    return Gallery(columns, rows, newest)


def inputs_of(name: str, there: Iterable[str]) -> tuple[str, ...]:
    """`result-1-2` was made from `content-1` and `style-2`, `result-1` from `content-1`."""
    numbers = re.findall(r"-(\d+)", name)
    wanted = [f"{kind}-{number}" for kind, number in zip(("content", "style"), numbers, strict=False)]
    return tuple(name for name in wanted if name in set(there))


def in_order(names: Iterable[str]) -> list[str]:
    """By their words and numbers: `result-2` before `result-10`."""
    return sorted(names, key=lambda name: [(int(p) if p.isdigit() else 0, p) for p in re.split(r"[-_]", name)])


def thumbnail(paths: Iterable[str]) -> str | None:
    """Of a model's files the picture that stands for it: the first result, else any sample."""
    pictures = [path for path in paths if path.startswith("samples/") and path.endswith(".jpg")]
    results = [path for path in pictures if path.startswith("samples/result")]
    return next(iter(in_order(results) or in_order(pictures)), None)
