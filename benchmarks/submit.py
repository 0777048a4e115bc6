"""`POST /v1/jobs` a second on one core, and its latency at half that rate: `python -m benchmarks.submit`.

The budget: at least 500 a second on one core on either database with everything on (key, schema, pins, event and
idempotency rows), p99 below 50 ms at half that rate, flat up to 100,000 queued jobs.

The API has one core to itself; client, PostgreSQL, Redis and S3 share the other one. On a machine that others use too
the rate by the clock says little. What a request costs the API in CPU time says more, and most of all how often the
bare three inserts fit into it, made in the same run (1,450 a second where the budget was set: 2.9 times 500).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from benchmarks.databases import TENANT, both_databases, fill_queue, make_room, queued_job
from benchmarks.load import Load, Result
from benchmarks.machine import OTHER_CORE, SERVICE_CORE, busy, cpu_s, on_core, quantile
from orchestrator.embedded.ports import free_port
from orchestrator.embedded.tether import tethered
from orchestrator.store.database import Database
from orchestrator.store.tables import DatasetVersion, Event, IdempotencyKey, Job, Tenant
from orchestrator.store.tenants import DEFAULT_TENANT
from tests.servers import S3Server, ValkeyServer
from tests.waiting import wait_until

BUDGET_PER_S, BUDGET_P99_S, BUDGET_BARE = 500, 0.050, 1450 / 500
LONG, BARE = 100_000, 1000
KEY = "sf_bench-administrator"
JOB: Mapping[str, Any] = {
    "method": "metastyle",
    "task": "train",
    "name": "bench",
    "config": {"steps": 200, "encoder": "small-narrow", "content_size": 128, "width": 16},
    "datasets": {"content": "photos@latest", "style": "paintings@1"},
    "tags": {"show": "spring"},
}


class Api:
    """`python -m orchestrator.api` on its core."""

    def __init__(self, database_url: str, valkey: ValkeyServer, s3: S3Server, folder: Path) -> None:
        self.port = free_port()
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": valkey.url,
            "S3_URL": s3.url,
            "S3_ACCESS_KEY": s3.access_key,
            "S3_SECRET_KEY": s3.secret_key,
            "PORT": str(self.port),
            "ADMIN_KEY": KEY,
            "CACHE_DIR": str(folder / "cache"),
        }
        with on_core(SERVICE_CORE), (folder / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                tethered([sys.executable, "-m", "orchestrator.api"]),
                env=os.environ | {f"STYLEFOUNDRY_{name}": value for name, value in environment.items()},
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, 60, "the API answers")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/livez", timeout=1):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def servers() -> Iterator[tuple[ValkeyServer, S3Server, Path]]:
    """Redis and the object store, which the API wants to see."""
    with tempfile.TemporaryDirectory(prefix="stylefoundry-bench-") as name:
        folder = Path(name)
        valkey, s3 = ValkeyServer(folder / "valkey"), S3Server(folder / "s3")
        valkey.start()
        s3.start()
        try:
            yield valkey, s3, folder
        finally:
            valkey.stop()
            s3.stop()


def make_datasets(db: Database) -> None:
    """Two versions that are ready, as an ingest would leave their rows."""
    with db.write() as tx:
        tenant = tx.scalars(select(Tenant.id).where(Tenant.name == DEFAULT_TENANT)).one()
        for name in ("photos", "paintings"):
            row = DatasetVersion(
                tenant_id=tenant, name=name, version=1, kind="images", status="ready", files=[], list_digest=name,
                hash="0" * 64, count=1000, bytes=10**9, classes=[], refused=[], paths={}, prefix=f"datasets/{name}",
                created_at=0.0,
            )  # fmt: skip
            tx.add(row)


def request(number: int) -> tuple[bytes, Mapping[str, str]]:
    """A job of its own, under an idempotency key of its own."""
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    return json.dumps({**JOB, "seed": number}).encode(), headers


def bare_insert_s(db: Database) -> float:
    """CPU seconds of one transaction that inserts the rows of a submit and does nothing else, on the API's core."""
    make_room(db)
    with on_core(SERVICE_CORE):
        for count in (100, BARE):  # the first ones fill caches
            before = time.process_time()
            for _ in range(count):
                job = queued_job(config=JOB["config"], datasets=JOB["datasets"], tags=JOB["tags"])
                with db.write() as tx:
                    tx.execute(insert(Job).values(job))
                    tx.execute(insert(Event).values(job_id=job["id"], id=1, attempt=0, event="status", at=0.0, body={}))
                    key = {"key": job["id"], "fingerprint": "0" * 64, "status": 201, "resource": job["id"]}
                    tx.execute(insert(IdempotencyKey).values(tenant_id=TENANT, created_at=0.0, **key))
        return (time.process_time() - before) / BARE


def cost_s(load: Load, pid: int, seconds: float) -> tuple[Result, float]:
    """Full speed: what came back, and the CPU seconds that one request took of the API."""
    load.as_fast_as_possible(for_s=1.0)
    before = cpu_s([pid])
    full = load.as_fast_as_possible(for_s=seconds)
    return full, (cpu_s([pid]) - before) / len(full.latencies_s)


def measure(load: Load, pid: int, db: Database, *, seconds: float, label: str) -> tuple[float, float]:
    """Print the figures at full speed and at half of it. Returns requests a second and CPU seconds per request."""
    full, each_s = cost_s(load, pid, seconds)
    half = load.at_a_pace(full.per_second / 2, for_s=seconds).latencies_s
    bare_s = bare_insert_s(db)
    print(
        f"{label}: {full.per_second:,.0f}/s by the clock (budget {BUDGET_PER_S}), {1 / each_s:,.0f}/s of the API's CPU "
        f"time ({1000 * each_s:.2f} ms each, {each_s / bare_s:.1f} bare inserts, budget {BUDGET_BARE:.1f}); at half "
        f"the rate p50 {1000 * quantile(half, 0.5):.1f} ms, p99 {1000 * quantile(half, 0.99):.1f} ms "
        f"(budget {1000 * BUDGET_P99_S:.0f}); {busy()}",
        flush=True,
    )
    return full.per_second, each_s


def check_rows(db: Database, sent: int) -> None:
    """Every answer stands for a job with its event and its idempotency key."""
    with db.read() as tx:
        mine = select(Job.id).where(Job.tenant_id != TENANT)
        counted = (
            select(func.count()).select_from(mine.subquery()),
            select(func.count()).select_from(Event).where(Event.job_id.in_(mine)),
            select(func.count()).select_from(IdempotencyKey).where(IdempotencyKey.tenant_id != TENANT),
        )
        counts = [tx.scalar(query) for query in counted]
    if counts != [sent] * 3:
        raise RuntimeError(f"{sent} jobs were sent, there are {counts} jobs, events and idempotency keys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each of the runs")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    options = parser.parse_args()
    with on_core(OTHER_CORE), both_databases() as urls, servers() as (valkey, s3, folder):
        for name, url in urls.items():
            if options.only not in (None, name):
                continue
            api = Api(url, valkey, s3, folder)
            db = Database(url)
            make_datasets(db)
            load = Load(api.port, "/v1/jobs", request, expected=201)
            pid, s = api.process.pid, options.seconds
            empty, empty_s = measure(load, pid, db, seconds=s, label=f"{name}, empty queue")
            fill_queue(db, LONG)
            long, long_s = measure(load, pid, db, seconds=s, label=f"{name}, {LONG:,} queued")
            print(
                f"{name}: with {LONG:,} queued jobs {long / empty:.2f} times the rate, {long_s / empty_s:.2f} times "
                f"the CPU time"
            )
            check_rows(db, load.sent)
            db.dispose()
            api.stop()


if __name__ == "__main__":
    main()
