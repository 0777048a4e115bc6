"""Admission: claim what fits, and start it on an actor.

The actor's name is in the attempt's row before the actor is called, so whoever looks later can find the process. An
actor is told a job id and an attempt, nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import structlog

from orchestrator.bus import Bus
from orchestrator.dispatch.cluster import Cluster, RayAway
from orchestrator.dispatch.warm import WarmPool
from orchestrator.settings import Settings
from orchestrator.store import claims, queue
from orchestrator.store.claims import Claimed
from orchestrator.store.database import Database
from orchestrator.store.queue import Ticket

log = structlog.get_logger()


class Running(NamedTuple):
    """An attempt that this dispatcher has a reference for."""

    ticket: Ticket
    actor: str


class Admission:
    """Claims and starts attempts, and remembers those it started until they are over."""

    def __init__(
        self, owner: str, settings: Settings, db: Database, bus: Bus, cluster: Cluster, warm: WarmPool
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._db = db
        self._bus = bus
        self._cluster = cluster
        self._warm = warm
        self.running: dict[Any, Running] = {}  # reference of `run` or `wait` -> what it is for

    def admit(self) -> None:
        """Claim until nothing waits or fits. Raises RayAway, or an error of the database."""
        while (placed := self._claim()) is not None:
            self._start(*placed)

    def _claim(self) -> tuple[Claimed, str] | None:
        with self._db.write() as tx:
            claimed = claims.claim_next(tx, owner=self._owner, lease_s=self._settings.lease_s)
            if claimed is None:
                return None
            warm = self._warm.ready(queue.busy_actors(tx)) if _is_short(claimed) else None
            actor = warm or f"run-{claimed.ticket.job_id}-{claimed.ticket.attempt}"
            queue.place(tx, claimed.ticket, actor)
        self._bus.tell(claimed.ticket.job_id)
        return claimed, actor

    def _start(self, claimed: Claimed, actor: str) -> None:
        ticket = claimed.ticket
        try:
            handle = self._warm.handle(actor) or self._cluster.start(
                actor, warm=False, threads=max(1, claimed.cpus), gpus=claimed.gpus
            )
            self.running[self._cluster.run(handle, ticket)] = Running(ticket, actor)
        except RayAway as error:
            self.give_back(ticket, f"Ray could not be reached: {error}")
            raise
        log.info("attempt_started", job=ticket.job_id, attempt=ticket.attempt, actor=actor)

    def give_back(self, ticket: Ticket, why: str) -> None:
        """The attempt was never begun: its job goes back to the queue, and nobody is charged."""
        with self._db.write() as tx:
            queue.give_back(tx, ticket, why)
        self._bus.tell(ticket.job_id)

    def watch(self, ticket: Ticket, actor: str) -> bool:
        """Hold on to an attempt that somebody else started; False when its actor is gone. Raises RayAway."""
        handle = self._warm.handle(actor) or self._cluster.find(actor)
        if handle is None:
            return False
        self.running[self._cluster.wait(handle, ticket)] = Running(ticket, actor)
        log.info("attempt_adopted", job=ticket.job_id, attempt=ticket.attempt, actor=actor)
        return True

    def lost(self, actor: str) -> None:
        """An actor is gone: if it was a warm one, another takes its place."""
        self._warm.lost(actor)

    def is_outdated(self, actor: str) -> bool:
        return self._warm.is_outdated(actor)

    def renew(self) -> None:
        """Renew the leases of what was placed and has not begun; workers renew their own."""
        if self.running:
            with self._db.write() as tx:
                tickets = [running.ticket for running in self.running.values()]
                queue.renew(tx, tickets, owner=self._owner, lease_s=self._settings.lease_s)

    def forget(self) -> None:
        """The connection to Ray is gone; what runs is found again by its actors' names."""
        self.running.clear()


def _is_short(claimed: Claimed) -> bool:
    """Ingests and adaptations go to warm workers; long trainings, and what needs a GPU, get a process of their own."""
    return claimed.gpus == 0 and (claimed.kind == "ingest" or claimed.task == "adapt")
