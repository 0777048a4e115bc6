"""Whether the classes of labelled datasets are those that a training wants."""

from __future__ import annotations

from collections.abc import Sequence


def check_scenes(dataset: str, found: Sequence[str]) -> None:
    """Raise ValueError where a dataset has a single class: there is nothing to tell apart."""
    if len(found) < 2:
        raise ValueError(f"{dataset}: all pictures are of one class ({', '.join(found)}), at least two are needed")


def places_in(wanted: Sequence[str], dataset: str, found: Sequence[str], *, setting: str) -> list[int]:
    """For each class of a dataset, in the order of its labels, its place in the list `wanted` of a setting.

    Raises ValueError that names the class: one that is not wanted, or one that the dataset has no picture of.
    """
    listed = ", ".join(wanted)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"{setting}: {listed or 'no class'} was given, allowed are different names, at least one")
    if unknown := [name for name in found if name not in wanted]:
        raise ValueError(f"{dataset}: class {unknown[0]!r} is not one of {setting} ({listed})")
    if absent := [name for name in wanted if name not in found]:
        raise ValueError(f"{dataset}: there is no picture of class {absent[0]!r}, which {setting} has ({listed})")
    return [wanted.index(name) for name in found]
