"""What an attempt has to say, on its way out: two threads, neither of which waits for the other.

    rows      one transaction a second at most: metrics, log lines, rows of finished uploads, the lease; in order
    objects   checkpoints and sample pictures to S3 (`uploads.py`)

A checkpoint's row goes out when its objects are up and every metric up to its step has gone. The training thread only
fills buffers. What comes back (a stop is wanted, a higher attempt exists, a store is away for too long) is kept until
the training thread asks: `raise_if_over`, once a step. The rows thread is the heartbeat, and the watchdog besides.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Literal

from torch import Tensor

from orchestrator import meters, traces
from orchestrator.states import ErrorType, Status
from orchestrator.store import queue
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import Job
from stylemodels.checkpoint import State
from workers.backlog import Backlog
from workers.endings import DeadlinePassed, StopAsked, Superseded, TimeIsUp
from workers.patience import Patience, is_away
from workers.platform import Platform
from workers.uploads import Row, Uploads

Level = Literal["info", "warning", "error"]
LEAVE_S = 5.0
STALLED_EXIT = 3


class Spool:
    """Used by one training thread, as a context manager. Everything is sent under the ticket."""

    def __init__(
        self, ticket: Ticket, job: Job, platform: Platform, patience: Patience, *, due_in_s: float | None = None
    ) -> None:
        self._ticket, self._job, self._platform, self._patience = ticket, job, platform, patience
        self._settings = platform.settings
        self._changed = threading.Condition()
        self._began_ns = traces.now_ns()
        self._backlog = Backlog()
        self._checkpoint_rows: list[Row] = []
        self._sample_rows: list[Row] = []
        self._step = job.step
        self._checkpointed_step = -1
        self._sending = self._urgent = self._draining = self._closed = False
        self._status: Status | None = Status(job.status)  # as last seen; None: superseded
        self._failure: Exception | None = None
        self._due = None if due_in_s is None else time.monotonic() + due_in_s
        self._deadline = None if job.timeout_s is None else time.monotonic() + job.timeout_s - job.running_s
        self._images, self._rate_since = 0, time.monotonic()
        self._watching, self._step_at, self._usual_step_s = False, time.monotonic(), 0.0
        self._log = tempfile.TemporaryFile(prefix="log-", suffix=".jsonl")  # noqa: SIM115  closed by __exit__
        self._uploads = Uploads(job, platform.objects, patience, done=self._uploaded, failed=self._fail)
        # With the context of whoever made this: its log lines name the job and the attempt too.
        self._rows = threading.Thread(target=copy_context().run, args=(self._send_rows,), name="rows", daemon=True)
        self._rows.start()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending. Who wants everything to be out calls `drain` before."""
        self._patience.give_up()
        self._uploads.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._rows.join(LEAVE_S)  # an outage holds it no longer; a frozen server's socket may
        self._log.close()

    @property
    def broken(self) -> bool:
        """True when nothing more can be sent."""
        return self._failure is not None

    # --- for the training thread ---

    def log(self, text: str, level: Level = "info") -> None:
        line = {"at": time.time(), "level": level, "text": text}
        with self._changed:
            self._backlog.add_line(line)
            self._log.write(json.dumps(line).encode() + b"\n")
            self._changed.notify_all()

    def at_step(self, step: int) -> None:
        """Training goes on from here, without anything to tell about the steps before."""
        with self._changed:
            self._step, self._rate_since = step, time.monotonic()

    def step_done(self, step: int, terms: Mapping[str, float], *, images: int) -> None:
        """Step `step` is finished; it drew `images` pictures."""
        now = time.monotonic()
        with self._changed:
            took = now - self._step_at
            if self._usual_step_s == 0:
                self._urgent = True  # people wait for the first step
                traces.note("first step", self._job.id, began_ns=self._began_ns, attempt=self._ticket.attempt)
            self._usual_step_s = 0.9 * self._usual_step_s + 0.1 * took if self._usual_step_s else took
            self._step_at, self._step = now, step
            self._images += images
            meters.tally.add("steps")
            self._backlog.add_terms(step, terms)
            self._changed.notify_all()

    def checkpoint(self, state: State) -> None:
        """Send a snapshot, unless this step's is sent already."""
        if state.step != self._checkpointed_step:
            self._checkpointed_step = state.step
            self._uploads.checkpoint(state)

    def pictures(self, step: int, pictures: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Future[bytes]]]:
        """Send a grid of named pictures (3, H, W) in [0, 1]; returns their JPEGs to be."""
        return self._uploads.pictures(step, pictures)

    def raise_if_over(self) -> None:
        """Raises Superseded, StopAsked, TimeIsUp, or what made sending impossible."""
        self._raise_if_void()
        if self._status in (Status.PAUSING, Status.PREEMPTING):
            raise StopAsked(self._status)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeIsUp(self._job.timeout_s or 0.0)
        if self._due is not None and time.monotonic() > self._due:
            raise DeadlinePassed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, steps are expected: a training that makes none for long is ended as stalled, with its process."""
        with self._changed:
            self._step_at, self._watching = time.monotonic(), True
        try:
            yield
        finally:
            with self._changed:
                self._watching = False

    def drain(self, *, limit_s: float | None = None) -> bool:
        """Wait until everything is out; False when it was not within `limit_s`.

        A pause that was asked for is no reason to stop here. Raises what `raise_if_over` raises otherwise.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        while not self._all_out():
            self._raise_if_void()
            if deadline is not None and time.monotonic() > deadline:
                return False
            with self._changed:
                self._changed.wait(0.05)
        return True

    def log_bytes(self) -> bytes:
        """Every line of this attempt so far, as JSON lines."""
        with self._changed:
            self._log.seek(0)
            return self._log.read()

    def _raise_if_void(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._status is None:
            raise Superseded
        if self._status is Status.CANCELLING:
            raise StopAsked(self._status)

    def _all_out(self) -> bool:
        # Uploads first: what they finish becomes rows.
        return self._uploads.idle and not self._something_waits()

    def _something_waits(self) -> bool:
        with self._changed:
            return bool(self._sending or self._backlog or self._checkpoint_rows or self._sample_rows)

    # --- from the objects thread ---

    def _uploaded(self, checkpoint_rows: Sequence[Row], sample_rows: Sequence[Row]) -> None:
        with self._changed:
            self._checkpoint_rows += checkpoint_rows
            self._sample_rows += sample_rows
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # --- the rows thread ---

    def _send_rows(self) -> None:
        sent_at = time.monotonic()
        try:
            while self._wait_for_turn(sent_at):
                batch = self._take_batch()
                sent_at = time.monotonic()
                self._send(batch)
                self._end_if_stalled()
        except Exception as error:
            self._fail(error)
        finally:
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _wait_for_turn(self, sent_at: float) -> bool:
        """True when it is time for the next transaction, false when there will be none."""

        def due() -> bool:
            waits = self._backlog or self._checkpoint_rows or self._sample_rows
            return self._closed or self._urgent or bool(self._draining and waits)

        with self._changed:
            self._changed.wait_for(due, max(0.0, sent_at + self._settings.renew_s - time.monotonic()))
            return not self._closed and self._status is not None

    def _take_batch(self) -> Batch:
        with self._changed:
            self._sending, self._urgent = True, False
            chunk = self._backlog.take()
            through = self._step if chunk.through is None else chunk.through
            ready = [row for row in self._checkpoint_rows if row["step"] <= through]
            pictures = [row for row in self._sample_rows if row["step"] <= through]
            self._checkpoint_rows = [row for row in self._checkpoint_rows if row["step"] > through]
            self._sample_rows = [row for row in self._sample_rows if row["step"] > through]
            return Batch(
                step=through,
                images_per_second=self._rate(),
                points=chunk.points,
                log=chunk.lines,
                checkpoints=ready,
                samples=pictures,
            )

    def _rate(self) -> float | None:
        """Pictures a second since the last batch; None when no step ended since."""
        if not self._images:
            return None
        now = time.monotonic()
        rate = self._images / max(now - self._rate_since, 1e-3)
        self._images, self._rate_since = 0, now
        return rate

    def _send(self, batch: Batch) -> None:
        status, dropped = self._patience.call(partial(self._record, batch))
        self._count(batch, status)
        with self._changed:
            self._status, self._sending = status, False
            self._changed.notify_all()
        for prefix in dropped:
            self._uploads.delete(prefix)
        self._platform.bus.tell(self._ticket.job_id)

    def _count(self, batch: Batch, status: Status | None) -> None:
        if status is None:
            meters.tally.add("fenced_writes")
        meters.tally.add("checkpoints_uploaded", len(batch.checkpoints))
        self._platform.bus.count(meters.tally.take(), job_id=self._job.id, uploads=self._uploads.waiting)

    def _record(self, batch: Batch) -> tuple[Status | None, list[str]]:
        dropped: list[str] = []
        with self._platform.db.write() as tx:
            status = queue.record(tx, self._ticket, batch, lease_s=self._settings.lease_s)
            if batch.checkpoints:
                dropped = queue.drop_checkpoints(tx, self._ticket, keep=self._job.keep_checkpoints)
        return status, dropped

    def _end_if_stalled(self) -> None:
        with self._changed:
            if not self._watching or self._patience.waiting:
                self._step_at = time.monotonic()  # a store that is away is no stall
                return
            stood_still_s = time.monotonic() - self._step_at
        if stood_still_s > max(self._settings.stall_s, 20 * self._usual_step_s):
            end_stalled(self._platform, self._ticket, f"no step was finished for {stood_still_s:.0f} s")


def end_stalled(platform: Platform, ticket: Ticket, message: str) -> None:
    """Fail the attempt and end this process: a thread that hangs in native code cannot be ended otherwise."""
    try:
        with platform.db.write() as tx:
            queue.fail(tx, ticket, ErrorType.STALLED, message)
    except Exception as error:
        if is_away(error):
            return  # the next turn tries again
        raise
    platform.bus.tell(ticket.job_id)
    platform.bus.wake()
    os._exit(STALLED_EXIT)
