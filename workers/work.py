"""An attempt in hand: what it is, what it works with, and its first and last words to SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from orchestrator.store import attempts, queue
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Checkpoint, Job
from workers.endings import Superseded
from workers.gang import Seat
from workers.inputs import Encoders
from workers.patience import Patience
from workers.platform import Platform
from workers.spool import Spool


class Host(NamedTuple):
    """Who works: an actor's name, a node, a process."""

    actor: str
    node: str
    pid: int


@dataclass(frozen=True)
class Work:
    """One attempt and its tools."""

    ticket: Ticket
    job: Job
    checkpoints: Sequence[Checkpoint]  # that may be resumed from, newest first
    platform: Platform
    encoders: Encoders
    host: Host
    patience: Patience
    spool: Spool
    seat: Seat | None = None  # rank 0's of a gang

    def begin(self, *, step: int, total_steps: int) -> None:
        """The job is running from here. Raises Superseded when it is no longer this attempt's to start."""
        if not self.patience.call(partial(self._begin, step, total_steps)):
            raise Superseded
        self.spool.at_step(step)
        self.platform.bus.tell(self.job.id)

    def _begin(self, step: int, total_steps: int) -> bool:
        with self.platform.db.write() as tx:
            moved = queue.begin(
                tx,
                self.ticket,
                actor=self.host.actor,
                node=self.host.node,
                pid=self.host.pid,
                resumed_from=step,
                total_steps=total_steps,
                lease_s=self.platform.settings.lease_s,
            )
            # A connection that broke in the middle of COMMIT leaves open whether the first try was it.
            return moved is not None or attempts.has_begun(tx, self.ticket, actor=self.host.actor)
