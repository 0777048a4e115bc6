"""Both databases with nothing in them, for a benchmark: an SQLite file and PostgreSQL from its wheel, both durable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from orchestrator.ids import new_id
from orchestrator.store import claims, lanes
from orchestrator.store.database import Database
from orchestrator.store.migrate import upgrade
from orchestrator.store.tables import Job, Tenant
from tests.servers import PostgresServer

TENANT = "tenant_bench"


class DurablePostgres(PostgresServer):
    """The tests' server waits for no disk; a figure must."""

    def command(self) -> list[str]:
        return [argument for argument in super().command() if argument != "-cfsync=off"]


@contextmanager
def both_databases() -> Iterator[dict[str, str]]:
    """Name -> url of two migrated, empty databases."""
    with tempfile.TemporaryDirectory(prefix="stylefoundry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = DurablePostgres(folder / "postgres")
        postgres.start()
        urls = {"sqlite": f"sqlite:///{folder / 'bench.db'}", "postgresql": postgres.url("postgres")}
        try:
            for url in urls.values():
                upgrade(url)
            yield urls
        finally:
            postgres.stop()


def make_room(db: Database) -> None:
    """A tenant for bare rows, and a ledger with room for all jobs."""
    with db.write() as tx:
        claims.set_room(tx, cpus=10**6, gpus=0)
        if tx.get(Tenant, TENANT) is None:
            tx.add(Tenant(id=TENANT, name=TENANT, created_at=0.0))


def queued_job(**changes: Any) -> dict[str, Any]:
    """The row of a queued job."""
    lane = lanes.key_of(TENANT, "standard", 0, (1, 0, 1, 1), short=False, has_deadline=False)
    return {
        "id": new_id("job"), "tenant_id": TENANT, "lane": lane, "kind": "train", "method": "metastyle", "task": "train",
        "name": "bench", "config": {}, "datasets": {}, "cpus": 1, "gpus": 0, "workers": 1, "seed": 0,
        "publish_as": "bench", "tags": {}, "priority": 0, "max_retries": 2, "keep_checkpoints": 3, "status": "queued",
        "attempt": 0, "charged": 0, "events": 1, "not_before": 0.0, "step": 0, "total_steps": 10, "running_s": 0.0,
        "created_at": 0.0,
    } | changes  # fmt: skip


def fill_queue(db: Database, count: int) -> None:
    """Queue `count` jobs as bare rows."""
    make_room(db)
    for start in range(0, count, 5000):
        rows = [queued_job() for _ in range(start, min(start + 5000, count))]
        with db.write() as tx:
            tx.execute(insert(Job), rows)
