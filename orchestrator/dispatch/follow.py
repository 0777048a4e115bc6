"""What follows from jobs' ends: those that waited for them are released or given up, sweeps go on.

Any number of dispatchers may do it, none needs Ray for it. A crash leaves what was not drawn to the next turn.
"""

from __future__ import annotations

import structlog

from orchestrator.bus import Bus
from orchestrator.store import consequences
from orchestrator.store.database import Database
from orchestrator.store.queue import Moved

log = structlog.get_logger()


class Follower:
    """Looks once a turn; where nothing has ended that is one read of an empty table."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus

    def follow(self) -> None:
        """Draw all consequences that nobody else is drawing. Raises an error of the database."""
        while self._is_something_to_do():
            with self._db.write() as tx:
                moved = consequences.draw(tx)
            if moved is None:
                return  # another dispatcher has it
            for job in moved:
                self._tell(job)

    def _is_something_to_do(self) -> bool:
        """On SQLite a reader, unlike a writer, waits for nobody."""
        with self._db.read() as tx:
            return consequences.any_left(tx)

    def _tell(self, job: Moved) -> None:
        log.info("consequence", job=job.job_id, status=job.status)
        self._bus.tell(job.job_id)
