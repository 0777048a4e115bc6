"""Checkpoints and sample pictures to S3, in a thread of its own.

While S3 is away only the newest checkpoint waits besides the one in hand; pictures wait as JPEGs, all of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from orchestrator.objects import Objects, sample_key
from orchestrator.store.tables import Job
from stylemodels.checkpoint import State
from stylemodels.images import encode_jpeg
from workers import checkpoints
from workers.patience import Patience, is_away

HOLD_UP_S = 10.0  # how long a third checkpoint waits for the first: a healthy store is only slower than the training
Row: TypeAlias = Mapping[str, Any]


class Pictures(NamedTuple):
    """A preview grid."""

    step: int
    grid: Sequence[tuple[str, tuple[int, int], Future[bytes]]]  # name, (width, height), JPEG


class Leftovers(NamedTuple):
    """Objects whose rows are gone."""

    prefix: str


class Uploads:
    """A queue of objects and the thread that empties it."""

    def __init__(
        self,
        job: Job,
        objects: Objects,
        patience: Patience,
        *,
        done: Callable[[Sequence[Row], Sequence[Row]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """done: told the rows of checkpoints and samples that are up. failed: told why nothing more will come.

        Both are called in the thread.
        """
        self._job, self._objects, self._patience = job, objects, patience
        self._done, self._failed = done, failed
        self._waiting: deque[State | Pictures | Leftovers] = deque()
        self._in_hand: State | Pictures | Leftovers | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="jpeg")
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="objects", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """True when everything is up."""
        with self._changed:
            return not self._waiting and self._in_hand is None

    @property
    def waiting(self) -> int:
        """Checkpoints and grids that are not up yet."""
        with self._changed:
            return len(self._waiting) + (self._in_hand is not None)

    def checkpoint(self, state: State) -> None:
        """Queue a checkpoint; one that still waits gives way to it."""
        with self._changed:
            self._let_catch_up()
            self._waiting = deque(item for item in self._waiting if not isinstance(item, State))
            self._put(state)

    def pictures(self, step: int, pictures: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Future[bytes]]]:
        """Queue a grid of named pictures (3, H, W) in [0, 1]; returns their JPEGs to be."""
        grid = [(name, (p.shape[2], p.shape[1]), self._encoder.submit(encode_jpeg, p)) for name, p in pictures]
        with self._changed:
            self._put(Pictures(step, grid))
        return [(name, jpeg) for name, _, jpeg in grid]

    def delete(self, prefix: str) -> None:
        with self._changed:
            self._put(Leftovers(prefix))

    def close(self) -> None:
        """Send nothing more. What is in hand may still arrive, under this attempt's keys, where it harms nobody."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def _put(self, item: State | Pictures | Leftovers) -> None:
        self._waiting.append(item)
        self._changed.notify_all()

    def _let_catch_up(self) -> None:
        """Hold the training up while two checkpoints are under way, but not for a store that is away."""
        deadline = time.monotonic() + HOLD_UP_S
        while (
            any(isinstance(item, State) for item in self._waiting)
            and not (self._closed or self._patience.waiting)
            and time.monotonic() < deadline
        ):
            self._changed.wait(0.05)

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._send(item)
                with self._changed:
                    self._in_hand = None
                    self._changed.notify_all()
        except Exception as error:
            self._failed(error)

    def _next(self) -> State | Pictures | Leftovers | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._in_hand = self._waiting.popleft()
            self._changed.notify_all()
            return self._in_hand

    def _send(self, item: State | Pictures | Leftovers) -> None:
        match item:
            case State():
                self._done([checkpoints.upload(self._objects, self._patience, self._job, item)], [])
            case Pictures():
                self._done([], [self._send_picture(item.step, *picture) for picture in item.grid])
            case Leftovers():
                self._clear(item.prefix)

    def _send_picture(self, step: int, name: str, size: tuple[int, int], jpeg: Future[bytes]) -> Row:
        key = sample_key(self._job.tenant_id, self._job.id, self._job.attempt, step, name)
        self._patience.call(partial(self._objects.put, key, jpeg.result(), "image/jpeg"))
        return {"step": step, "name": name, "width": size[0], "height": size[1], "key": key}

    def _clear(self, prefix: str) -> None:
        try:
            self._objects.delete_prefix(prefix)
        except Exception as error:
            if not is_away(error):
                raise
            # What no row names is swept a day later: not worth holding up the next checkpoint.
