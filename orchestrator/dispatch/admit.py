"""Admission: claim what fits, and start it on an actor.

The actor's name is in the attempt's row before the actor is called, so whoever looks later can find the process. An
actor is told a job id and an attempt, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog

from orchestrator import meters, traces
from orchestrator.bus import Bus
from orchestrator.dispatch import gangs
from orchestrator.dispatch.cluster import Cluster, RayAway
from orchestrator.dispatch.warm import WarmPool
from orchestrator.settings import Settings
from orchestrator.store import claims, queue
from orchestrator.store.claims import Claimed
from orchestrator.store.database import Database
from orchestrator.store.queue import Ticket

log = structlog.get_logger()


class Running(NamedTuple):
    """A worker of an attempt that this dispatcher has a reference for."""

    ticket: Ticket
    actor: str  # that has rank 0
    workers: int = 1
    rank: int = 0


class _Placing(NamedTuple):
    running: Running
    until: float  # monotonic
    nodes: tuple[str, ...]


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
        self.running: dict[Any, Running] = {}  # reference of `run`, `follow` or `wait` -> what it is for
        self.placing: dict[Any, _Placing] = {}  # reference of `meeting` or `ready` -> what waits for a place in Ray
        self._nodes: set[str] = set()  # that are there
        self._gone: set[str] = set()  # that were

    def admit(self) -> None:
        """Claim until nothing waits or fits. Raises RayAway, or an error of the database."""
        while (placed := self._claim()) is not None:
            self._start(*placed)

    def _claim(self) -> tuple[Claimed, str] | None:
        with self._db.write() as tx:
            claimed = claims.claim_next(
                tx,
                owner=self._owner,
                lease_s=self._settings.lease_s,
                classes=self._settings.declared_classes,
                idle_warm=lambda: self._warm.ready(queue.busy_actors(tx)),
            )
            if claimed is None:
                return None
            actor = claimed.warm or gangs.leader_name(claimed.ticket)
            queue.place(tx, claimed.ticket, actor)
        self._bus.tell(claimed.ticket.job_id)
        return claimed, actor

    def _start(self, claimed: Claimed, actor: str) -> None:
        ticket = claimed.ticket
        began_ns = traces.now_ns()
        try:
            if claimed.workers > 1:
                self._start_gang(claimed, actor)
            else:
                self._start_single(claimed, actor)
        except RayAway as error:
            self.give_back(ticket, f"Ray could not be reached: {error}")
            raise
        traces.note("launch", ticket.job_id, began_ns=began_ns, attempt=ticket.attempt, actor=actor)
        if ticket.attempt == 1:
            traces.note("queue", ticket.job_id, began_ns=traces.made_ns(ticket.job_id))
        meters.dispatcher.started.inc()
        log.info("attempt_started", job=ticket.job_id, attempt=ticket.attempt, actor=actor)

    def _start_single(self, claimed: Claimed, actor: str) -> None:
        node = claimed.nodes[0] if claimed.nodes else ""
        handle = self._warm.handle(actor) or self._cluster.start(
            actor, warm=False, threads=max(1, claimed.cpus), gpus=claimed.gpus, node=node
        )
        running = Running(claimed.ticket, actor)
        if claimed.gpus:
            self.placing[self._cluster.ready(handle)] = _Placing(running, self._placed_by(), ())
        self.running[self._cluster.run(handle, claimed.ticket)] = running

    def _placed_by(self) -> float:
        return time.monotonic() + self._settings.join_s

    def _start_gang(self, claimed: Claimed, actor: str) -> None:
        """Where they meet travels from rank 0 to the others through Ray: nobody waits for it here."""
        ticket, workers = claimed.ticket, claimed.workers
        handles = gangs.start(
            self._cluster, actor, workers=workers, threads=max(1, claimed.cpus), gpus=claimed.gpus, nodes=claimed.nodes
        )
        meeting = self._cluster.meeting(handles[0])
        leader = Running(ticket, actor, workers)
        self.placing[meeting] = _Placing(leader, self._placed_by(), claimed.nodes)
        self.running[self._cluster.run(handles[0], ticket, workers)] = leader
        for rank, handle in enumerate(handles[1:], start=1):
            part = self._cluster.follow(handle, ticket, rank=rank, workers=workers, meeting=meeting)
            self.running[part] = Running(ticket, actor, workers, rank)

    def end(self, actor: str, workers: int) -> None:
        """End an attempt's processes; a warm worker that did it is replaced. Raises RayAway."""
        gangs.end(self._cluster, actor, workers)
        self._warm.lost(actor)
        ended = [reference for reference, running in self.running.items() if running.actor == actor]
        for reference in ended:
            del self.running[reference]

    def unplaced(self) -> list[Running]:
        """Attempts that Ray had no room for for `join_s`, or one of whose nodes is gone; each is told once.

        Gangs, and workers with GPUs: Ray has room for every single worker without.
        """
        for placed in self._cluster.over(list(self.placing)):
            del self.placing[placed]
        now = time.monotonic()
        late = [ref for ref, one in self.placing.items() if now > one.until or not self._gone.isdisjoint(one.nodes)]
        return [self.placing.pop(reference).running for reference in late]

    def see(self, nodes: Iterable[str]) -> None:
        """The nodes that are there now. Ray gives no id twice."""
        there = set(nodes)
        self._gone |= self._nodes - there
        self._nodes = there

    def give_back(self, ticket: Ticket, why: str) -> None:
        """The attempt was never begun: its job goes back to the queue, and nobody is charged."""
        with self._db.write() as tx:
            queue.give_back(tx, ticket, why)
        self._bus.tell(ticket.job_id)

    def watch(self, ticket: Ticket, actor: str, workers: int) -> bool:
        """Hold on to an attempt that somebody else started; False when one of its actors is gone. Raises RayAway."""
        warm = self._warm.handle(actor)
        handles = gangs.find(self._cluster, actor, workers) if warm is None else [warm]
        if handles is None:
            return False
        for rank, handle in enumerate(handles):
            self.running[self._cluster.wait(handle, ticket)] = Running(ticket, actor, workers, rank)
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
        self.placing.clear()
