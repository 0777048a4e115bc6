"""Claims a second, with a short and with a long queue: `python -m benchmarks.claims`.

The budget: a claim's cost does not grow with the length of the queue.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from benchmarks.databases import both_databases, fill_queue
from benchmarks.machine import busy
from orchestrator.store import claims
from orchestrator.store.database import Database

CLAIMS = 400
SHORT, LONG = 2 * CLAIMS, 100_000


class Cost(NamedTuple):
    """Median seconds of a claim."""

    clock_s: float
    cpu_s: float  # of this process: SQLite's whole work, and PostgreSQL's client


def cost_of_a_claim(db: Database) -> Cost:
    """Over CLAIMS claims, each in its own transaction."""
    clock, cpu = [], []
    for _ in range(CLAIMS):
        began = time.perf_counter(), time.process_time()
        with db.write() as tx:
            claimed = claims.claim_next(tx, owner="bench", lease_s=15.0)
        clock.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
        if claimed is None:
            raise RuntimeError("nothing was left to claim")
    return Cost(statistics.median(clock), statistics.median(cpu))


def main() -> None:
    with both_databases() as urls:
        for name, url in urls.items():
            db = Database(url)
            fill_queue(db, SHORT)
            short = cost_of_a_claim(db)
            fill_queue(db, LONG)
            long = cost_of_a_claim(db)
            print(
                f"{name}: {1 / short.clock_s:,.0f} claims/s with {SHORT:,} jobs, "
                f"{1 / long.clock_s:,.0f} with {LONG:,}; "
                f"a claim costs {long.clock_s / short.clock_s:.2f} times as much by the clock, "
                f"{long.cpu_s / short.cpu_s:.2f} in CPU time (budget: not more); {busy()}",
                flush=True,
            )
            db.dispose()


if __name__ == "__main__":
    main()
