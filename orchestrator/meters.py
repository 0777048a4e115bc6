"""What dispatchers and workers count. The API's own figures are in `api/traffic.py` and `store/gauges.py`.

A dispatcher serves its figures itself. Workers come and go, so they add theirs to totals in Redis, from where every
replica of the API tells the same sums; a Redis that was emptied is a counter that begins anew, which Prometheus knows.
"""

from __future__ import annotations

import threading
from collections import Counter

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Gauge, Histogram

TURN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)

# Totals of all workers: the name without `stylefoundry_` and `_total`, and what it counts.
OF_WORKERS = {
    "cache_hits": "Shards and models found on a worker's disk",
    "cache_misses": "Shards and models that a worker had to fetch",
    "fenced_writes": "Writes of a worker that were refused because its attempt no longer counts",
    "checkpoints_uploaded": "Checkpoints in the object store, with their rows",
    "steps": "Training steps finished",
}


class DispatcherMeters:
    """Figures of one dispatcher process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turn_seconds = Histogram(
            "stylefoundry_turn_seconds",
            "Time of one turn of a dispatcher, seconds",
            buckets=TURN_BUCKETS,
            registry=self.registry,
        )
        self.failures = self._counter("duty_failures", "Duties of a dispatcher that did not end", ["duty", "why"])
        self.started = self._counter("attempts_started", "Attempts that a dispatcher has started", [])
        self.lost = self._counter("attempts_lost", "Attempts that a dispatcher has ended as lost", ["why"])
        self.ray_connected = Gauge(
            "stylefoundry_ray_connected", "1 while a dispatcher is connected to Ray", registry=self.registry
        )

    def _counter(self, name: str, help: str, labels: list[str]) -> prometheus.Counter:
        return prometheus.Counter(f"stylefoundry_{name}", help, labels, registry=self.registry)


class Tally:
    """Counts that wait to be added to the totals. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, by: int = 1) -> None:
        """Raises KeyError for a name that is not in OF_WORKERS."""
        OF_WORKERS[name]
        with self._lock:
            self._counts[name] += by

    def take(self) -> dict[str, int]:
        """What was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)


tally = Tally()  # of this worker process
dispatcher = DispatcherMeters()  # of this dispatcher process
