"""Several processes on one attempt: how they meet, agree, and notice that one of them is gone.

Rank 0 holds the attempt: its rows, its uploads, its decisions. It opens a meeting on its node, whose address travels to
the others. In the meeting's store every worker says when it is ready, why it failed, and once a second that it lives.
A worker that is silent for two leases, or whose connection breaks, ends the gang: nobody waits for the dead.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from orchestrator.settings import Settings
from orchestrator.states import ErrorType
from stylemodels.distributed import ALONE, Group, PeerLost, gloo, nccl
from workers.endings import Superseded

ANSWER = timedelta(seconds=30)  # of the store
LOOK_S = 0.05
LAST_WORDS_S = 1.0  # how long rank 0 waits for the reason of a worker that has left
LEFT_EXIT = 4
DONE = "done"


class MemberFailed(Exception):
    """Another worker of the gang could not go on, for a reason of the job's."""

    def __init__(self, kind: ErrorType, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Meeting:
    """Where a gang meets: a small store of words on rank 0's node."""

    def __init__(self, store: Any, host: str) -> None:
        """store: a `dist.TCPStore`. host: the interface on which this process talks to the others."""
        self.store, self.host = store, host

    @classmethod
    def open(cls, host: str) -> Meeting:
        """By rank 0. It listens on this interface only, on a port that the system chooses."""
        listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        store = dist.TCPStore(  # type: ignore[attr-defined]  # torch forgot to list it
            host, port, is_master=True, timeout=ANSWER, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        return cls(store, host)

    @classmethod
    def join(cls, address: str, host: str) -> Meeting:
        """By the others. Raises PeerLost when nobody is there."""
        there, _, port = address.rpartition(":")
        with store_errors():
            found = dist.TCPStore(  # type: ignore[attr-defined]
                there, int(port), is_master=False, timeout=ANSWER, wait_for_workers=False
            )
            return cls(found, host)

    @property
    def address(self) -> str:
        return f"{self.store.host}:{self.store.port}"

    def say_ready(self, rank: int) -> None:
        with store_errors():
            self.store.set(f"ready/{rank}", "")

    def say_failed(self, rank: int, kind: ErrorType, message: str) -> None:
        """Rank 0 will end the attempt with this. Nobody may be there to hear it."""
        with suppress(PeerLost), store_errors():
            self.store.set(f"failed/{rank}", json.dumps([kind.value, message]))

    def raise_if_failed(self, workers: int) -> None:
        """Raises MemberFailed with what the first worker said that could not go on."""
        for rank in range(1, workers):
            with store_errors():
                told = self.store.get(f"failed/{rank}") if self.store.check([f"failed/{rank}"]) else None
            if told is not None:
                kind, message = json.loads(told)
                raise MemberFailed(ErrorType(kind), f"worker {rank} of {workers}: {message}")

    def wait_for_all(self, workers: int, *, limit_s: float) -> None:
        """Raises MemberFailed, or PeerLost when somebody is not ready within `limit_s`."""
        deadline = time.monotonic() + limit_s
        pause = threading.Event()
        while True:
            self.raise_if_failed(workers)
            with store_errors():
                missing = [rank for rank in range(workers) if not self.store.check([f"ready/{rank}"])]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise PeerLost(f"worker {missing[0]} of {workers} was not ready within {limit_s:g} s")
            pause.wait(LOOK_S)


class Seat(NamedTuple):
    """A worker's place in a gang."""

    rank: int
    workers: int
    meeting: Meeting


@contextmanager
def seated(
    seat: Seat | None, device: torch.device, settings: Settings, *, give_up: Callable[[str], None]
) -> Iterator[Group]:
    """The group, once all are ready. Without a seat the worker is alone.

    give_up: called from another thread when a worker is silent: it ends this process, whose training may wait for the
    silent one in native code.

    Raises MemberFailed or PeerLost.
    """
    if seat is None:
        yield ALONE
        return
    with Pulse(seat, settings, give_up):
        seat.meeting.say_ready(seat.rank)
        seat.meeting.wait_for_all(seat.workers, limit_s=settings.join_s)
        group = _connected(seat, device)
        try:
            yield group
        except PeerLost:
            _wait_for_reason(seat)
            raise
        finally:
            group.close()


def _connected(seat: Seat, device: torch.device) -> Group:
    store, rank, size = seat.meeting.store, seat.rank, seat.workers
    with store_errors():
        words = gloo(PrefixStore("words", store), rank, size, address=seat.meeting.host)
        tensors = nccl(PrefixStore("tensors", store), rank, size) if device.type == "cuda" else words
    return Group(rank, size, tensors=tensors, words=words)


def _wait_for_reason(seat: Seat) -> None:
    """A worker that fails says so before it leaves. Raises MemberFailed if one did."""
    deadline = time.monotonic() + LAST_WORDS_S
    pause = threading.Event()
    while seat.rank == 0 and time.monotonic() < deadline:
        seat.meeting.raise_if_failed(seat.workers)
        pause.wait(LOOK_S)


class Pulse:
    """A thread by which every worker shows that it lives, and sees that the others do."""

    def __init__(self, seat: Seat, settings: Settings, give_up: Callable[[str], None]) -> None:
        self._seat, self._give_up = seat, give_up
        self._every_s, self._limit_s = settings.renew_s, 2 * settings.lease_s
        self._over = threading.Event()
        self._seen: dict[int, tuple[bytes, float]] = {}  # what a rank said last, and since when
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._store = self._seat.meeting.store.clone()  # a call of the other one may wait
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Who is done says so: its silence means nothing from then on."""
        self._over.set()
        self._thread.join()
        if self._seat.rank > 0:
            with suppress(PeerLost), store_errors():
                self._store.set(f"alive/{self._seat.rank}", DONE)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(self._every_s):
            beats += 1
            try:
                silent = self._look(beats)
            except PeerLost as error:
                silent = f"worker 0 is gone: {error}"
            if silent and not self._over.is_set():
                self._give_up(silent)
                return

    def _look(self, beats: int) -> str | None:
        """Say and hear; what to say of a worker that is silent."""
        now = time.monotonic()
        with store_errors():
            self._store.set(f"alive/{self._seat.rank}", str(beats))
            if self._seat.rank > 0:
                self._store.check([f"alive/{self._seat.rank}"])  # rank 0 holds the store: that it answers is its beat
                return None
            for rank in range(1, self._seat.workers):
                said = self._store.get(f"alive/{rank}") if self._store.check([f"alive/{rank}"]) else b""
                if rank not in self._seen or self._seen[rank][0] != said:
                    self._seen[rank] = said, now
        at_work = {rank: since for rank, (said, since) in self._seen.items() if said not in (b"", DONE.encode())}
        silent = [rank for rank, since in at_work.items() if now - since > self._limit_s]
        return f"worker {silent[0]} has been silent for {self._limit_s:g} s" if silent else None


def all_go_on(group: Group, raise_if_over: Callable[[], None]) -> None:
    """Once a step: rank 0 asks, everybody leaves at the same step. Raises what rank 0's `raise_if_over` raises there,
    elsewhere Superseded; PeerLost when somebody has left."""
    if group.size == 1:
        raise_if_over()
        return
    if group.rank > 0:
        word = torch.zeros(1, dtype=torch.uint8)
        group.from_first(word)
        if not word.item():
            raise Superseded
        return
    try:
        raise_if_over()
    except Exception:
        with suppress(PeerLost):
            group.from_first(torch.zeros(1, dtype=torch.uint8))
        raise
    group.from_first(torch.ones(1, dtype=torch.uint8))


def end_process(why: str) -> None:
    """What another worker than rank 0 gives up with: rank 0 or a dispatcher tells why."""
    os._exit(LEFT_EXIT)


@contextmanager
def store_errors() -> Iterator[None]:
    """The store's errors are those of its connection: rank 0 has gone."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        raise PeerLost(str(error).strip().splitlines()[0]) from error
