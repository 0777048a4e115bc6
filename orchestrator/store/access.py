"""Who holds which key, asked on every request and so remembered for a moment."""

from __future__ import annotations

import threading
import time

from orchestrator.store import keys
from orchestrator.store.database import Database
from orchestrator.store.keys import Caller

REMEMBERED_S = 1.0  # so long may another replica still take a key that was revoked
MOST = 10_000  # keys remembered at a time


class Access:
    """Safe to share between threads."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Caller, float]] = {}  # digest -> caller, time.monotonic() of the look

    def remembered(self, secret: str) -> Caller | None:
        """The holder of a key, if it was looked up within the last second. Asks nobody."""
        found = self._known.get(keys.digest_of(secret))
        return found[0] if found is not None and time.monotonic() - found[1] < REMEMBERED_S else None

    def look_up(self, secret: str) -> Caller | None:
        """The holder of a key by the database; None for one that is unknown, revoked or expired."""
        digest = keys.digest_of(secret)
        asked_at = time.monotonic()
        with self._db.read() as tx:
            caller = keys.caller_of(tx, digest)
            unnoted = caller is not None and keys.long_unnoted(tx, caller.key_id)
        if caller is None:
            return None
        if unnoted:
            with self._db.write() as tx:
                keys.note_use(tx, caller.key_id)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[digest] = (caller, asked_at)
        return caller

    def find(self, secret: str) -> Caller | None:
        return self.remembered(secret) or self.look_up(secret)

    def forget(self) -> None:
        """Ask again from now on: a key was revoked or changed."""
        with self._lock:
            self._known.clear()
