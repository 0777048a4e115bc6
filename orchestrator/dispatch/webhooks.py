"""Tells what was noted for webhooks, beside the loop: a slow receiver keeps nobody from a claim.

Any number of dispatchers do this. Each takes a few deliveries for a time that is longer than one try can last; one that
dies leaves them to the others.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.dispatch import outbound
from orchestrator.settings import Settings
from orchestrator.store import webhooks
from orchestrator.store.database import Database, is_outage
from orchestrator.store.webhooks import Due

log = structlog.get_logger()

SENDERS = 16  # deliveries tried at a time,
AT_ONCE = 4  # taken at a time; a tenant with as many under way gets no more: its slow receiver delays nobody else's
LOOK_EVERY_S = 1.0
HOLD_S = 120.0  # longer than a try: a name's resolution, and `outbound.WHOLE_S`


class Postman:
    """Owns a thread that looks and some that send; none of them outlives the process."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._private = settings.webhook_private
        self._db = db
        self._over = threading.Event()
        self._under_way: dict[Future[None], str] = {}  # -> tenant

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Deliver as long as the block lasts."""
        thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(LOOK_EVERY_S)

    def _run(self) -> None:
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="webhook") as pool:
            while not self._over.is_set():
                try:
                    begun = self._begin(pool)
                except SQLAlchemyError as error:
                    outage = is_outage(error)
                    log.warning("webhooks_stuck", error=str(error.__cause__ or error).strip(), outage=outage)
                    begun = 0
                if begun == 0:
                    self._over.wait(LOOK_EVERY_S)

    def _begin(self, pool: ThreadPoolExecutor) -> int:
        """Begin to try what is due and there are senders for. Raises the database's errors, of finished tries too."""
        for over in [future for future in self._under_way if future.done()]:
            del self._under_way[over]
            over.result()
        if len(self._under_way) > SENDERS - AT_ONCE:
            return 0
        counted = Counter(self._under_way.values())
        busy = [tenant for tenant, count in counted.items() if count >= AT_ONCE]
        with self._db.read() as tx:
            if not webhooks.any_due(tx, without=busy):
                return 0
        with self._db.write() as tx:
            due = webhooks.claim_due(tx, limit=AT_ONCE, hold_s=HOLD_S, without=busy)
        self._under_way |= {pool.submit(self._try, one): one.tenant_id for one in due}
        return len(due)

    def _try(self, due: Due) -> None:
        with self._db.read() as tx:
            secrets = webhooks.secrets_of(tx, due.tenant_id)
        outcome = outbound.post(due.url, due.id, body_of(due), secrets, private=self._private)
        with self._db.write() as tx:
            webhooks.conclude(tx, due, outcome)
        level = log.info if outcome.error is None else log.warning
        level("webhook", delivery=due.id, job=due.data["job"], tries=due.tries, answer=outcome.answer)


def body_of(due: Due) -> bytes:
    """What is sent: the same bytes at every try."""
    at = datetime.fromtimestamp(due.created_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": due.event, "timestamp": at, "data": due.data}
    return json.dumps(told, separators=(",", ":"), sort_keys=True).encode()
