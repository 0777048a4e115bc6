"""What a data set is to a stream, and how its pictures are divided into those to learn from and those to check with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from stylemodels.method import Needs, Stream


class PictureSource(Protocol):
    """Pictures in the order of their sha256 digests, without doubles."""

    @property
    def digests(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[int] | None: ...
    @property
    def classes(self) -> Sequence[str]: ...

    def read(self, index: int) -> bytes:
        """The file as it is. A stream of a training run reads from one thread."""
        ...


def part_of(digests: Sequence[str], part: str, validation_share: float) -> list[int]:
    """Indices of the pictures in `part`: "all", "train" or "validation".

    A picture's own digest decides, so it stays where it is when others come or go. `digests` are sorted: validation
    takes the lowest ones, at least one; training keeps at least one too; a single picture is in both.
    """
    if part == "all" or len(digests) == 1:
        return list(range(len(digests)))
    low = sum(int(digest[:16], 16) < validation_share * 2**64 for digest in digests)
    low = min(max(low, 1), len(digests) - 1)
    return list(range(low)) if part == "validation" else list(range(low, len(digests)))


def members_of(name: str, stream: Stream, source: PictureSource) -> list[int]:
    """Indices of the pictures that a stream draws from.

    Where there are classes each is divided by itself: one with a single picture is in training alone. Raises ValueError
    when validation would get no picture.
    """
    if source.labels is None or stream.part == "all":
        return part_of(source.digests, stream.part, stream.validation_share)
    members: list[int] = []
    for label in range(len(source.classes)):
        indices = [index for index, its in enumerate(source.labels) if its == label]
        if len(indices) > 1:
            digests = [source.digests[index] for index in indices]
            members += [indices[place] for place in _part_of_class(digests, stream)]
        elif stream.part == "train":
            members += indices
    if not members:
        raise ValueError(f"stream {name}: no class of {stream.dataset!r} has two pictures, so none is left to validate")
    return sorted(members)


def _part_of_class(digests: Sequence[str], stream: Stream) -> list[int]:
    if stream.folds == 0:
        return part_of(digests, stream.part, stream.validation_share)
    held_out = range(stream.fold, len(digests), stream.folds)
    return [place for place in range(len(digests)) if (place in held_out) == (stream.part == "validation")]


def check_classes(name: str, source: PictureSource, needs: Needs) -> None:
    """Raise ValueError, with the class, when a labelled data set has fewer classes or pictures than a task needs."""
    if source.labels is None or needs.datasets[name] != "labelled":
        return
    if len(source.classes) < needs.min_classes:
        have = f"one class, {source.classes[0]!r}" if len(source.classes) == 1 else f"{len(source.classes)} classes"
        raise ValueError(f"{name}: there is {have}, {needs.min_classes} are needed")
    counts = Counter(source.labels)
    for label, class_name in enumerate(source.classes):
        if counts[label] < needs.min_per_class:
            raise ValueError(
                f"{name}: class {class_name!r} has {so_many(counts[label])}, {needs.min_per_class} are needed"
            )


def so_many(count: int) -> str:
    """How many pictures, in words."""
    return f"{count} picture{'' if count == 1 else 's'}"
