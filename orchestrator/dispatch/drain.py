"""Nodes that are about to go: what is at work there is asked to keep its last step and to go back to the queue.

Ray places nothing new on them. A job that moves is not charged, and its next attempt goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog

from orchestrator.bus import Bus
from orchestrator.dispatch import gangs
from orchestrator.dispatch.cluster import Cluster
from orchestrator.dispatch.warm import WarmPool
from orchestrator.states import Move
from orchestrator.store import queue
from orchestrator.store.database import Database
from orchestrator.store.queue import ActiveJob

log = structlog.get_logger()


class Drain:
    """Moves work away; may be asked again while it is on its way."""

    def __init__(self, db: Database, bus: Bus, cluster: Cluster, warm: WarmPool) -> None:
        self._db, self._bus, self._cluster, self._warm = db, bus, cluster, warm

    def clear(self, leaving: Collection[str]) -> None:
        """leaving: ids of Ray's nodes. Raises RayAway, or an error of the database."""
        if not leaving:
            return
        with self._db.read() as tx:
            active = [job for job in queue.active_jobs(tx) if job.actor is not None]
        names = [*self._warm.names(), *(name for job in active for name in _actors(job))]
        there = {name for name, node in self._cluster.nodes_of(names).items() if node in leaving}
        for job in active:
            if there.intersection(_actors(job)):
                self._ask(job)
        for name in there.intersection(self._warm.names()).difference(*(_actors(job) for job in active)):
            log.info("warm_worker_moves", name=name)
            self._cluster.kill(name)
            self._warm.lost(name)

    def _ask(self, job: ActiveJob) -> None:
        with self._db.write() as tx:
            moved = queue.move(tx, job.ticket.job_id, Move.PREEMPT, attempt=job.ticket.attempt)
        if moved is not None:
            log.info("node_drained", job=job.ticket.job_id, attempt=job.ticket.attempt)
            self._bus.tell(job.ticket.job_id)


def _actors(job: ActiveJob) -> list[str]:
    return [] if job.actor is None else gangs.member_names(job.actor, job.workers)
