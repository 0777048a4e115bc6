"""Attempts that are over: those whose call has ended, whose actor is gone, whose lease stands still, who do not stop.

Only the row decides. A worker that finished has written so itself; a process that is gone has left its row active, and
its attempt is ended here. Running work of another dispatcher, or of this one before its restart, is found by the
actor's name in the attempt's row.
"""

from __future__ import annotations

import time

import structlog

from orchestrator import meters
from orchestrator.bus import Bus
from orchestrator.dispatch import gangs
from orchestrator.dispatch.admit import Admission, Running
from orchestrator.dispatch.cluster import Cluster, Gone
from orchestrator.dispatch.watch import LeaseWatch
from orchestrator.settings import Settings
from orchestrator.states import Status
from orchestrator.store import queue
from orchestrator.store.database import Database
from orchestrator.store.queue import ActiveJob, Ticket

log = structlog.get_logger()

ORPHANS_EVERY_S = 10.0
STOPPING = (Status.PAUSING, Status.CANCELLING, Status.PREEMPTING)


class Reaper:
    """Ends what is over. Remembers only what it has seen by its own clock."""

    def __init__(self, settings: Settings, db: Database, bus: Bus, cluster: Cluster, admission: Admission) -> None:
        self._settings = settings
        self._db = db
        self._bus = bus
        self._cluster = cluster
        self._admission = admission
        self._leases = LeaseWatch(settings.lease_s)
        self._stopping_since: dict[Ticket, float] = {}
        self._next_orphans = 0.0
        self._places_seen = False

    def look(self) -> None:
        """Everything that needs Ray. Raises RayAway, or an error of the database."""
        self._collect()
        self._give_back_unplaced()
        with self._db.read() as tx:
            active = queue.active_jobs(tx)
        self._adopt(active)
        self._end_those_who_do_not_stop(active)
        if time.monotonic() >= self._next_orphans:
            self._next_orphans = time.monotonic() + ORPHANS_EVERY_S
            self._kill_orphans()

    def watch_leases(self) -> None:
        """Take back leases that stand still. Raises an error of the database."""
        with self._db.read() as tx:
            leases = {job.ticket: job.lease_until for job in queue.active_jobs(tx)}
        for ticket in self._leases.expired(leases, time.monotonic()):
            why = f"nothing was heard of it for {2 * self._settings.lease_s:g} s"
            self._admission.give_back(ticket, f"it was never begun: {why}")  # changes nothing once it has begun
            self._lost(ticket, why, cause="lease")

    def interrupted(self) -> None:
        """A query failed: leases are watched anew."""
        self._leases.interrupted()

    def _collect(self) -> None:
        """Calls that have ended."""
        running = self._admission.running
        for reference in self._cluster.over(list(running)):
            over = running.pop(reference, None)
            if over is None:  # another worker of its gang was gone, so all were ended
                continue
            try:
                self._cluster.result(reference)
            except Gone as error:
                self._lost(over.ticket, f"{_whose(over)} process is gone: {error}")
                self._admission.end(over.actor, over.workers)
            except RuntimeError as error:
                self._refused(over, str(error))
            else:
                self._returned(over)

    def _refused(self, over: Running, why: str) -> None:
        log.error("attempt_refused", job=over.ticket.job_id, actor=over.actor, rank=over.rank, error=why)
        self._admission.give_back(over.ticket, why)
        if over.workers > 1:
            self._lost(over.ticket, why)
            self._admission.end(over.actor, over.workers)

    def _returned(self, over: Running) -> None:
        """Rank 0 that has returned has written how it ended, unless it was superseded or could not reach SQL.

        The others return a moment before it.
        """
        if over.rank > 0:
            return
        self._lost(over.ticket, "its worker gave up without reaching the database")
        if over.actor.startswith("run-"):
            self._admission.end(over.actor, over.workers)

    def _give_back_unplaced(self) -> None:
        for one in self._admission.unplaced():
            waited = f"within {self._settings.join_s:g} s, or one of their nodes is gone"
            self._admission.give_back(one.ticket, f"Ray had no place for its workers ({one.workers}) {waited}")
            self._admission.end(one.actor, one.workers)

    def _adopt(self, active: list[ActiveJob]) -> None:
        """Attempts that have begun, with an actor that this dispatcher holds no reference of."""
        known = {running.ticket for running in self._admission.running.values()}
        for job in active:
            if job.actor is None or job.ticket in known or job.lease_owner != job.actor:
                continue
            if not self._admission.watch(job.ticket, job.actor, job.workers):
                self._lost(job.ticket, "its process is gone, or Ray was started anew")
                self._admission.end(job.actor, job.workers)

    def _end_those_who_do_not_stop(self, active: list[ActiveJob]) -> None:
        stopping = {job.ticket: job for job in active if job.status in STOPPING}
        now = time.monotonic()
        self._stopping_since = {ticket: self._stopping_since.get(ticket, now) for ticket in stopping}
        for ticket, since in self._stopping_since.items():
            if now - since < self._settings.grace_s:
                continue
            log.warning("attempt_killed", job=ticket.job_id, attempt=ticket.attempt, actor=stopping[ticket].actor)
            if (actor := stopping[ticket].actor) is not None:
                self._admission.end(actor, stopping[ticket].workers)
            with self._db.write() as tx:
                queue.stop(tx, ticket)
            self._told(ticket)

    def _kill_orphans(self) -> None:
        """Actors of attempts that no longer count. Names are listed first: a row is always older than its actor."""
        names = self._cluster.names()
        mine = {running.actor for running in self._admission.running.values()}
        # To ask for places costs a process of Ray's: only where there may be some that nobody looks after.
        places = self._cluster.places() if gangs.orphans(names, mine) or not self._places_seen else []
        self._places_seen = True
        with self._db.read() as tx:
            busy = queue.busy_actors(tx)
        outdated = [name for name in names if name not in busy and self._admission.is_outdated(name)]
        for name in [*gangs.orphans(names, busy), *outdated]:
            log.info("actor_ended", actor=name)
            self._cluster.kill(name)
        for name in gangs.orphans(places, busy):
            self._cluster.unplace(name)

    def _lost(self, ticket: Ticket, why: str, cause: str = "process") -> None:
        with self._db.write() as tx:
            moved = queue.lost(tx, ticket, why)
        if moved is not None:
            meters.dispatcher.lost.labels(cause).inc()
            log.warning("attempt_lost", job=ticket.job_id, attempt=ticket.attempt, status=moved.status, why=why)
            self._told(ticket)

    def _told(self, ticket: Ticket) -> None:
        self._bus.tell(ticket.job_id)
        self._bus.wake()


def _whose(over: Running) -> str:
    return "its" if over.workers == 1 else f"worker {over.rank}'s (of {over.workers})"
