"""What the schedule asks of jobs besides starting: to make room for others, and to end by their deadlines."""

from __future__ import annotations

import time

import structlog

from orchestrator.bus import Bus
from orchestrator.settings import Settings
from orchestrator.states import Status
from orchestrator.store import accounts, claims, deadlines
from orchestrator.store.database import Database
from orchestrator.store.queue import Moved

log = structlog.get_logger()

SETTLE_EVERY_S = 60.0


class Scheduler:
    """Duties that need no Ray."""

    def __init__(self, settings: Settings, db: Database, bus: Bus) -> None:
        self._settings = settings
        self._db = db
        self._bus = bus
        self._next_settling = 0.0

    def make_room(self) -> None:
        """Have jobs stopped that the next one preempts. Raises an error of the database."""
        with self._db.write() as tx:
            moved = claims.make_room(tx, classes=self._settings.declared_classes)
        self._tell("preempted", moved)

    def expire(self) -> None:
        """End the jobs whose deadline has passed while nobody was at work. Raises an error of the database."""
        with self._db.read() as tx:
            late = deadlines.passed(tx)
        for job_id in late:
            with self._db.write() as tx:
                moved = deadlines.lapse(tx, job_id)
            self._tell("deadline_passed", [moved] if moved is not None else [])

    def settle(self) -> None:
        """Once a minute, count anew what tenants hold. Raises an error of the database."""
        if time.monotonic() >= self._next_settling:
            self._next_settling = time.monotonic() + SETTLE_EVERY_S
            with self._db.write() as tx:
                accounts.settle(tx)

    def _tell(self, what: str, moved: list[Moved]) -> None:
        for one in moved:
            log.info(what, job=one.job_id, attempt=one.attempt, status=one.status)
            self._bus.tell(one.job_id)
        if any(one.status is not Status.PREEMPTING for one in moved):
            self._bus.wake()
