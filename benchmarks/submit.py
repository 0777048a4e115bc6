"""`POST /v1/jobs` a second on one core, and its latency at half that rate: `python -m benchmarks.submit`.

The budget: at least 500 a second on one core on either database with everything on (key, schema, pins, event and
idempotency rows), p99 below 50 ms at half that rate, flat up to 100,000 queued jobs.

The API has one core to itself; client, PostgreSQL, Redis and S3 share the other one. On a machine that others use too
the rate by the wall clock says little; what a request costs the API in CPU time says more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.databases import both_databases, fill_queue
from benchmarks.load import Load, Result
from benchmarks.machine import OTHER_CORE, SERVICE_CORE, busy, cpu_s, on_core, quantile
from orchestrator.embedded.ports import free_port
from orchestrator.embedded.tether import tethered
from orchestrator.store.database import Database
from orchestrator.store.keys import DEFAULT_TENANT
from orchestrator.store.tables import DatasetVersion, Event, IdempotencyKey, Job, Tenant
from tests.servers import S3Server, ValkeyServer
from tests.waiting import wait_until

BUDGET_PER_S, BUDGET_P99_S, LONG = 500, 0.050, 100_000
KEY = "sf_bench-administrator"
JOB = {
    "method": "metastyle",
    "task": "train",
    "name": "bench",
    "config": {"steps": 200, "encoder": "small-narrow", "content_size": 128, "width": 16},
    "datasets": {"content": "photos@latest", "style": "paintings@1"},
    "tags": {"show": "spring"},
}


class Api:
    """`python -m orchestrator.api` on its core."""

    def __init__(self, database_url: str, valkey: ValkeyServer, s3: S3Server, folder: Path, wrapper: list[str]) -> None:
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
                tethered([*wrapper, sys.executable, "-m", "orchestrator.api"]),
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
    body: dict[str, Any] = JOB | {"seed": number}
    return json.dumps(body).encode(), headers


def measure(load: Load, pid: int, *, seconds: float, label: str) -> tuple[Result, float]:
    """Full speed, then half of it. Returns the first's result and the CPU seconds that one request took of the API."""
    load.as_fast_as_possible(for_s=1.0)
    before = cpu_s([pid])
    full = load.as_fast_as_possible(for_s=seconds)
    cost_s = (cpu_s([pid]) - before) / len(full.latencies_s)
    half = load.at_a_pace(full.per_second / 2, for_s=seconds)
    p99_ms = 1000 * quantile(half.latencies_s, 0.99)
    print(
        f"{label}: {full.per_second:,.0f}/s by the clock (budget {BUDGET_PER_S}), {1 / cost_s:,.0f}/s of the API's CPU "
        f"time ({1000 * cost_s:.2f} ms each); at half the rate p50 {1000 * quantile(half.latencies_s, 0.5):.1f} ms, "
        f"p99 {p99_ms:.1f} ms (budget {1000 * BUDGET_P99_S:.0f}); {busy()}",
        flush=True,
    )
    return full, cost_s


def check_rows(db: Database, sent: int) -> None:
    """Every answer stands for a job with its event and its idempotency key."""
    with db.read() as tx:
        jobs = select(func.count()).select_from(Job).where(Job.method == "metastyle", Job.seed >= 0, Job.created_at > 0)
        counts = [tx.scalar(jobs), *(tx.scalar(select(func.count()).select_from(t)) for t in (Event, IdempotencyKey))]
    if counts != [sent] * 3:
        raise RuntimeError(f"{sent} jobs were sent, there are {counts} jobs, events and idempotency keys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each of the runs")
    parser.add_argument("--wrapper", default="", help="command in front of the API's, e.g. a profiler's")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    options = parser.parse_args()
    with on_core(OTHER_CORE), both_databases() as urls, servers() as (valkey, s3, folder):
        for name, url in urls.items():
            if options.only not in (None, name):
                continue
            api = Api(url, valkey, s3, folder, options.wrapper.split())
            db = Database(url)
            make_datasets(db)
            load = Load(api.port, "/v1/jobs", request, expected=201)
            empty, empty_s = measure(load, api.process.pid, seconds=options.seconds, label=f"{name}, empty queue")
            fill_queue(db, LONG)
            long, long_s = measure(load, api.process.pid, seconds=options.seconds, label=f"{name}, {LONG:,} queued")
            print(
                f"{name}: with {LONG:,} queued jobs {long.per_second / empty.per_second:.2f} times the rate, "
                f"{long_s / empty_s:.2f} times the CPU time"
            )
            check_rows(db, load.sent)
            db.dispose()
            api.stop()


if __name__ == "__main__":
    main()
