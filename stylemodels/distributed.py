"""Several processes that train one task together, each on its part of every batch.

The batch is the one that a single process would have, cut into one stretch per worker. A loss that is a mean over the
batch is the mean of its parts, each counted by its share of the pictures; so gradients, and with them the weights, are
those of one worker, but for rounding. Whoever has rank 0 alone looks after everything else.

What several workers exchange goes through a `Group`; a process by itself is `ALONE` and exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

# Not what ends a wait for a dead or frozen worker: its closed connection does, or whoever runs the processes. A worker
# waits here while rank 0 draws previews and validates.
LONGEST_WAIT = timedelta(days=1)


class PeerLost(Exception):
    """Another worker left in the middle of an exchange."""


class SharedOut(Protocol):
    """What of a stream decides how it is cut (`method.Stream`)."""

    @property
    def count(self) -> int: ...
    @property
    def per_class(self) -> int: ...
    @property
    def whole(self) -> bool: ...
    @property
    def together(self) -> int: ...


class Channel(Protocol):
    """The part of torch's process groups that is used here."""

    def allreduce(self, tensors: list[Tensor], /) -> Any: ...
    def broadcast(self, tensor: Tensor, root: int, /) -> Any: ...
    def abort(self) -> None: ...


class Group:
    """Ranks 0 to `size` - 1. Every call must be made by all of them, in the same order. Calls raise PeerLost."""

    def __init__(
        self, rank: int = 0, size: int = 1, *, tensors: Channel | None = None, words: Channel | None = None
    ) -> None:
        """tensors: for what lies on the training's device. words: for what lies in memory; may be the same."""
        self.rank, self.size = rank, size
        self._tensors, self._words = tensors, words

    def add_up(self, tensor: Tensor) -> None:
        """Replace a dense tensor by its sum over the ranks, the same bits on each."""
        if self.size > 1:
            with _peers():
                self._for(tensor).allreduce([tensor]).wait()

    def from_first(self, tensor: Tensor) -> None:
        """Replace a dense tensor by that of rank 0."""
        if self.size > 1:
            with _peers():
                self._for(tensor).broadcast(tensor, 0).wait()

    def words_of_first(self, words: bytes) -> bytes:
        """What rank 0 says; what others bring is not looked at."""
        if self.size == 1:
            return words
        length = torch.tensor([len(words)])
        self.from_first(length)
        carried = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == 0:
            carried.copy_(torch.frombuffer(bytearray(words), dtype=torch.uint8))
        self.from_first(carried)
        return carried.numpy().tobytes()

    def joined(self, part: Tensor) -> Tensor:
        """The parts of all ranks, one after the other along the first axis."""
        if self.size == 1:
            return part
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(part)
        self.add_up(lengths)
        start = int(lengths[: self.rank].sum())
        whole = part.new_zeros(int(lengths.sum()), *part.shape[1:])
        whole[start : start + len(part)] = part
        self.add_up(whole)
        return whole

    def weighted_sum(self, tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
        """The sum over the ranks of `tensors`, each rank's times its `weight`: one exchange of one flat buffer."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * weight
        self.add_up(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    def close(self) -> None:
        """Leave: whoever waits for this rank, now or later, gets PeerLost."""
        for group in (self._tensors, self._words):
            if group is not None:
                group.abort()
        self._tensors = self._words = None

    def _for(self, tensor: Tensor) -> Channel:
        group = self._words if tensor.device.type == "cpu" else self._tensors
        if group is None:
            raise PeerLost("this worker has left the group")
        return group


ALONE = Group()


def part_of(stream: SharedOut, rank: int, size: int) -> slice:
    """Which pictures of a stream's batch rank `rank` of `size` trains on.

    Pictures that belong together stay so. Where a batch does not come out even, the parts differ
    by one. Raises ValueError when a rank would get none.
    """
    unit = stream.per_class * (stream.together if size > 1 else 1)
    units, left = divmod(stream.count, unit)
    if stream.whole and not left and units:
        return slice(0, stream.count)
    if left or units < size:
        of_classes = f" of {stream.per_class} of a class" if stream.per_class > 1 else ""
        of_classes = of_classes or (f" {stream.together} at a time" if stream.together > 1 else "")
        raise ValueError(f"{stream.count} pictures a step cannot be shared out{of_classes} to {size} workers")
    first, behind = rank * units // size, (rank + 1) * units // size
    return slice(first * unit, behind * unit)


def weight_of(streams: Sequence[SharedOut], rank: int, size: int) -> float:
    """The share of the batch that a rank has: what its mean counts in the mean of all.

    Raises ValueError when the streams are cut in different proportions: then there is no such number.
    """
    cut = [stream for stream in streams if not stream.whole]
    parts = [(part_of(stream, rank, size), stream.count) for stream in cut]
    weights: set[float] = {(part.stop - part.start) / count for part, count in parts} or {1 / size}
    if len(weights) > 1:
        counts = " and ".join(sorted({str(stream.count) for stream in cut}))
        raise ValueError(f"{counts} pictures a step cannot be shared out to {size} workers in the same proportions")
    return min(weights)


def gloo(store: Store, rank: int, size: int, *, address: str, timeout: timedelta = LONGEST_WAIT) -> Channel:
    """A process group over TCP that listens on `address`, an interface's. The store is where ranks find each other.

    Made directly and not by `init_process_group`: that one resolves the machine's name, which on many is 127.0.1.1,
    and knows one group per process.
    """
    options: Any = getattr(dist.ProcessGroupGloo, "_Options")()  # noqa: B009  the stubs do not know it
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timeout
    return cast(Channel, dist.ProcessGroupGloo(store, rank, size, options))


def nccl(store: Store, rank: int, size: int) -> Channel:
    """A process group between GPUs; each process sees its own as the first one."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = LONGEST_WAIT
    return cast(Channel, dist.ProcessGroupNCCL(store, rank, size, options))


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no class of their own for a connection that was closed
        raise PeerLost(str(error).strip().splitlines()[0]) from error
