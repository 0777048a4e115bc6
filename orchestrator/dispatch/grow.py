"""Room from Ray's autoscaler: it sees what actors ask Ray for, and ours ask for nothing, so it is told.

What is asked for holds until something else is: the cluster grows for what waits, keeps what is at work, and shrinks
again when neither is left.
"""

from __future__ import annotations

import time

from orchestrator.dispatch.cluster import Cluster
from orchestrator.settings import Settings
from orchestrator.store import demand
from orchestrator.store.database import Database

EVERY_S = 5.0


class Growth:
    """Asks for room, where the settings say that somebody listens."""

    def __init__(self, settings: Settings, db: Database, cluster: Cluster) -> None:
        self._wanted = settings.autoscale
        self._db, self._cluster = db, cluster
        self._next = 0.0

    def ask_when_due(self) -> None:
        """Raises RayAway, or an error of the database."""
        if not self._wanted or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        with self._db.read() as tx:
            bundles = demand.bundles(tx)
        self._cluster.ask_for(bundles)
