"""Claims a second, with a short and with a long queue: `python -m benchmarks.claims`.

The budget: a claim's cost does not grow with the length of the queue.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.databases import both_databases, fill_queue
from benchmarks.machine import busy
from orchestrator.store import claims
from orchestrator.store.database import Database

CLAIMS = 400
SHORT, LONG = 2 * CLAIMS, 100_000


def seconds_per_claim(db: Database) -> float:
    """Median over CLAIMS claims, each in its own transaction."""
    taken = []
    for _ in range(CLAIMS):
        started = time.perf_counter()
        with db.write() as tx:
            claimed = claims.claim_next(tx, owner="bench", lease_s=15.0)
        taken.append(time.perf_counter() - started)
        if claimed is None:
            raise RuntimeError("nothing was left to claim")
    return statistics.median(taken)


def main() -> None:
    with both_databases() as urls:
        for name, url in urls.items():
            db = Database(url)
            fill_queue(db, SHORT)
            short_s = seconds_per_claim(db)
            fill_queue(db, LONG)
            long_s = seconds_per_claim(db)
            print(
                f"{name}: {1 / short_s:,.0f} claims/s with {SHORT:,} jobs, {1 / long_s:,.0f} with {LONG:,}; a claim "
                f"costs {long_s / short_s:.2f} times as much (budget: not more); {busy()}",
                flush=True,
            )
            db.dispose()


if __name__ == "__main__":
    main()
