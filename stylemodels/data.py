"""Folders of pictures as endless seeded streams of training batches.

A batch is a function of the seed and the step alone. Pictures stand in the order of their digests; each stream goes
through them in one permutation per epoch (a balanced one through those of each class), and all that is random about a
crop (`augment.py`) comes from a generator of its own, keyed by the stream's name and the position in it. So there is no
state to save, any step can be asked for first, and it makes no difference who reads ahead or how the pictures came to
be here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylemodels.augment import cut, kept_least, stored_shorter
from stylemodels.distributed import part_of as part_of_worker
from stylemodels.images import decode_for_crop, decode_squashed, inspect, to_float
from stylemodels.method import Stream
from stylemodels.sources import PictureSource, members_of, so_many

CACHE_BYTES = 512 << 20
READ_AHEAD = 2  # batches that wait while the model trains


class Refused(NamedTuple):
    """A file that is not used, and why."""

    path: str
    reason: str


class FolderSource:
    """All pictures under a folder. Hidden files and folders are passed over.

    labelled: the folders right below it are the classes, in the order of their names.
    refused: what could not be used, with the reason `images.inspect` gives.

    Raises ValueError when the folder is not there or no picture is left, of a class or at all.
    """

    def __init__(self, path: Path | str, labelled: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is not a folder")
        self.refused: list[Refused] = []
        found: dict[str, Path] = {}
        for file in sorted(_visible_files(self.path)):
            try:
                self._accept(file, labelled, found)
            except (OSError, ValueError) as error:
                self.refused.append(Refused(file.relative_to(self.path).as_posix(), str(error)))
        if not found:
            first = f"; {self.refused[0].path}: {self.refused[0].reason}" if self.refused else ""
            raise ValueError(f"no usable picture under {self.path}{first}")
        self.digests: Sequence[str] = sorted(found)
        self._files = [found[digest] for digest in self.digests]
        names = [self._class_of(file) for file in self._files] if labelled else []
        self.classes: Sequence[str] = sorted(set(names))
        if labelled and (empty := sorted(set(_visible_folders(self.path)).difference(names))):
            raise ValueError(f"{self.path}: there is no usable picture of class {empty[0]!r}")
        self.labels: Sequence[int] | None = [self.classes.index(name) for name in names] if labelled else None

    def _accept(self, file: Path, labelled: bool, found: dict[str, Path]) -> None:
        if labelled and file.parent == self.path:
            raise ValueError("in no class: it lies beside the folders of the classes")
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest not in found:
            inspect(data)
            found[digest] = file
        elif labelled and self._class_of(file) != self._class_of(found[digest]):
            raise ValueError(f"the same picture is in class {self._class_of(found[digest])}")

    def _class_of(self, file: Path) -> str:
        return file.relative_to(self.path).parts[0]

    def read(self, index: int) -> bytes:
        """The file as it was when the folder was opened. Raises ValueError when it has changed or gone since."""
        file = self._files[index]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.digests[index]:
            raise ValueError(f"{file} has changed since the training began")
        return data


def _visible_folders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _visible_files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _visible_files(entry)
        else:
            yield entry


class Draw(NamedTuple):
    """One picture of a batch."""

    picture: int  # its index in the source
    position: int  # in the stream, counted from the start of training: keys the crop


def repetitions(streams: Mapping[str, Stream], sources: Mapping[str, PictureSource]) -> list[str]:
    """In words, the streams that want more pictures a step than their data set has: the same ones come again."""
    return [
        f"{name}: {stream.count} pictures a step are wanted, {stream.dataset} has {there}: some come more than once"
        for name, stream in streams.items()
        if (there := len(sources[stream.dataset].digests)) < stream.count
    ]


class Batches:
    """The batches of a training run, read ahead in a background thread.

    streams: what the task wants, by name. sources: the data sets that the streams name.
    share: (rank, workers): which part of every batch is this worker's (`distributed.part_of`); together they have what
    one alone would have.
    device: where the batches go. cache_bytes: for pictures that are decoded and scaled already.

    Raises ValueError when a stream cannot be had from its source.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        sources: Mapping[str, PictureSource],
        *,
        seed: int,
        share: tuple[int, int] = (0, 1),
        device: torch.device | str = "cpu",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.device = torch.device(device)
        cache = PictureCache(cache_bytes)
        self._readers = {}
        for name, stream in streams.items():
            if stream.dataset not in sources:
                raise ValueError(f"stream {name} needs the data set {stream.dataset!r}, which was not given")
            self._readers[name] = StreamReader(
                name, stream, sources[stream.dataset], seed=seed, share=share, cache=cache
            )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[dict[str, Tensor]]] = {}

    def at(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, counted from 0: stream name -> (N, 3, size, size), float32 in [0, 1].

        A stream of a labelled data set adds `<name>_label`: (N,), int64. What went wrong while this batch was read
        ahead is raised here: ValueError for a picture that is no longer what it was.
        """
        wanted = range(step, step + 1 + READ_AHEAD)
        for stale in set(self._ahead).difference(wanted):
            self._ahead.pop(stale).cancel()
        for later in wanted:
            if later not in self._ahead:
                self._ahead[later] = self._thread.submit(self._read, later)
        batch = self._ahead.pop(step).result()
        return {
            name: to_float(tensor.to(self.device)) if tensor.dtype == torch.uint8 else tensor.to(self.device)
            for name, tensor in batch.items()
        }

    def _read(self, step: int) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for reader in self._readers.values():
            batch |= reader.read(step)
        return batch

    def round(self) -> Iterator[dict[str, Tensor]]:
        """Batches until every stream has shown all its pictures once; shorter streams begin again meanwhile.

        A single stream that is not shared out shows each of them exactly once: the last batch may be smaller.
        """
        lengths = {name: len(reader.members) for name, reader in self._readers.items()}
        counts = {name: reader.stream.count for name, reader in self._readers.items()}
        steps = max(-(-lengths[name] // counts[name]) for name in lengths)
        for step in range(steps):
            batch = self.at(step)
            left = max(lengths[name] - step * counts[name] for name in lengths)
            yield batch if len(lengths) > 1 else {name: pictures[:left] for name, pictures in batch.items()}

    def close(self) -> None:
        """End the background thread. What it has begun it finishes first."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class StreamReader:
    """One stream: which pictures a step draws, and how they are cut. Knows nothing of other steps."""

    def __init__(
        self,
        name: str,
        stream: Stream,
        source: PictureSource,
        *,
        seed: int,
        share: tuple[int, int],
        cache: PictureCache,
    ) -> None:
        _check(name, stream, source, share)
        self.name, self.stream, self.source, self.cache = name, stream, source, cache
        self.own = part_of_worker(stream, *share)
        self.seed, self.key = seed, f"{seed}/{name}"
        self.members = members_of(name, stream, source)
        self.by_class = _by_class(name, stream, source, self.members)
        of_class = {f"of-class/{label}": pictures for label, pictures in self.by_class.items()}
        self._rows = {"epoch": self.members, "classes": sorted(self.by_class), **of_class}
        self._permutation = lru_cache(maxsize=2 * len(self._rows))(self._permutation_of)

    def read(self, step: int) -> dict[str, Tensor]:
        """This worker's part of the batch of `step`: (N, 3, size, size) uint8, and the labels if there are any."""
        draws = self.draws(step)
        draws = draws[self.own]
        batch = {self.name: torch.stack([self._cut(draw) for draw in draws])}
        if self.source.labels is not None:
            batch[f"{self.name}_label"] = torch.tensor([self.source.labels[draw.picture] for draw in draws])
        return batch

    def draws(self, step: int) -> list[Draw]:
        """The pictures of `step` for all workers, in the order of the batch."""
        leaders = range(step * self.stream.count, (step + 1) * self.stream.count, self.stream.per_class)
        return [draw for leader in leaders for draw in self._side_by_side(leader)]

    def _side_by_side(self, leader: int) -> list[Draw]:
        """`per_class` pictures of one class: the stream's own next one, and others of its class."""
        first = self._next(leader // self.stream.per_class)
        if self.stream.per_class == 1:
            return [Draw(first, leader)]
        assert self.source.labels is not None
        others = [index for index in self.by_class[self.source.labels[first]] if index != first]
        chosen = generator(f"{self.key}/class/{leader}").permutation(others)[: self.stream.per_class - 1]
        return [Draw(int(index), leader + place) for place, index in enumerate([first, *chosen])]

    def _next(self, group: int) -> int:
        """Who leads the group of this number: in a permutation of all, or of the classes and then within the class."""
        if not self.stream.balanced:
            return self._at("epoch", group)
        label = self._class_at(group)
        return self._at(f"of-class/{label}", group // len(self.by_class))

    def _class_at(self, group: int) -> int:
        """As `_at`; where a turn would begin with the class that the last one ended with, its first two change places.

        Of two classes or one every turn is the first.
        """
        count = len(self.by_class)
        turn, place = divmod(group, count)
        if count < 3:
            return self._at("classes", place)
        if place < 2 and turn > 0 and self._at("classes", turn * count) == self._at("classes", turn * count - 1):
            place = 1 - place
        return self._at("classes", turn * count + place)

    def _at(self, row: str, number: int) -> int:
        """A row is gone through again and again, each time in another order."""
        turn, place = divmod(number, len(self._rows[row]))
        return int(self._permutation(row, turn)[place])

    def _permutation_of(self, row: str, turn: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return generator(f"{self.key}/{row}/{turn}").permutation(np.array(self._rows[row], dtype=np.int64))

    def _cut(self, draw: Draw) -> Tensor:
        """The first pictures of a group that stays together are a couple over all streams, and so are the second ones.

        Of a group of four the third is with the first and the fourth with the second.
        """
        scaled = self.cache.get(self.source, draw.picture, self.stream)
        group, place = divmod(draw.position, self.stream.per_class * self.stream.together)
        couple = generator(f"{self.seed}/couple/{group}/{place % 2}")
        return cut(scaled, self.stream, generator(f"{self.key}/cut/{draw.position}"), couple)


class PictureCache:
    """Decoded and scaled pictures, the longest unused thrown out first. For one thread."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.size_bytes = 0
        self._pictures: OrderedDict[tuple[str, int, int, int, bool], Tensor] = OrderedDict()

    def get(self, source: PictureSource, index: int, stream: Stream) -> Tensor:
        """Picture `index` scaled for the crops of `stream`: (3, H, W), uint8."""
        digest = source.digests[index]
        load_size, least = stored_shorter(stream), kept_least(stream)
        key = (digest, stream.size, least, load_size, stream.squash)
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        data = source.read(index)
        try:
            if stream.squash:
                picture = decode_squashed(data, load_size or stream.size)
            else:
                picture = decode_for_crop(data, load_size, size=least)
        except ValueError as error:
            raise ValueError(f"picture {digest[:12]} of {stream.dataset}: {error}") from error
        self._pictures[key] = picture
        self.size_bytes += picture.nbytes
        while self.size_bytes > self.capacity_bytes:
            _, oldest = self._pictures.popitem(last=False)
            self.size_bytes -= oldest.nbytes
        return picture


def generator(key: str) -> np.random.Generator:
    """A random stream of its own for every key."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")))


def _check(name: str, stream: Stream, source: PictureSource, share: tuple[int, int]) -> None:
    try:
        part_of_worker(stream, *share)
    except ValueError as error:
        raise ValueError(f"stream {name}: {error}") from error
    if stream.load_size and stream.load_size < stream.size:
        raise ValueError(f"stream {name}: load size {stream.load_size} is smaller than the crop of {stream.size} px")
    if (stream.per_class > 1 or stream.balanced) and source.labels is None:
        wanted = "pictures of one class are" if stream.per_class > 1 else "every class equally often is"
        raise ValueError(f"stream {name}: {wanted} wanted, but {stream.dataset!r} has no classes")


def _by_class(name: str, stream: Stream, source: PictureSource, members: Sequence[int]) -> dict[int, list[int]]:
    """Class -> its pictures, where the stream draws by class; empty otherwise."""
    by_class: dict[int, list[int]] = {}
    if source.labels is None or (stream.per_class == 1 and not stream.balanced):
        return by_class
    for index in members:
        by_class.setdefault(source.labels[index], []).append(index)
    for label, indices in by_class.items():
        if len(indices) < stream.per_class:
            have = so_many(len(indices)) + ("" if stream.part == "all" else f" in the part {stream.part!r}")
            raise ValueError(
                f"stream {name}: class {source.classes[label]!r} has {have}, {stream.per_class} are drawn together"
            )
    return by_class
