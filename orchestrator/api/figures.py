"""What SQL and the workers know, as figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator import meters
from orchestrator.bus import Bus
from orchestrator.store import gauges
from orchestrator.store.database import Database


class Figures(Collector):
    """Counted when asked, so every replica says the same."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db, self._bus = db, bus

    def describe(self) -> Iterator[Metric]:
        return iter(())  # nothing is asked of SQL at registration

    def collect(self) -> Iterator[Metric]:
        with self._db.read() as tx:
            now = gauges.read(tx)
        yield _family("stylefoundry_jobs", "Jobs by status", ["status"], _labelled(now.jobs))
        yield _family("stylefoundry_queue_length", "Jobs that wait for room", ["class"], _labelled(now.queued))
        yield _family(
            "stylefoundry_queue_oldest_seconds", "How long the first has waited", ["class"], _labelled(now.oldest_s)
        )
        yield _family("stylefoundry_attempts", "Attempts by outcome", ["outcome"], _labelled(now.attempts))
        yield _family("stylefoundry_room", "What the cluster has", ["resource"], _labelled(now.room))
        yield _family("stylefoundry_room_taken", "What jobs hold", ["resource"], _labelled(now.taken))
        if now.room_age_s is not None:
            yield _family("stylefoundry_room_age_seconds", "Since it was measured", [], {(): now.room_age_s})
        yield _family(
            "stylefoundry_checkpoint_lag_seconds",
            "Longest training of a running job beyond its newest checkpoint",
            [],
            {(): now.checkpoint_lag_s},
        )
        yield _family("stylefoundry_ingests", "Versions of datasets on their way", [], {(): now.ingesting})
        yield _family("stylefoundry_webhooks", "Deliveries not made", ["status"], _labelled(now.webhooks))
        yield _family("stylefoundry_webhook_lag_seconds", "How late the first is", [], {(): now.webhook_lag_s})
        yield from self._of_workers()

    def _of_workers(self) -> Iterator[Metric]:
        """What lies in Redis; while that is away these are missing."""
        totals = self._bus.totals()
        if totals is None:
            return
        for name, help in meters.OF_WORKERS.items():
            yield CounterMetricFamily(f"stylefoundry_{name}", help, value=totals.counts.get(name, 0))
        yield _family("stylefoundry_warm_idle", "Warm workers without work", [], {(): totals.idle_workers})
        yield _family(
            "stylefoundry_uploads_waiting", "Checkpoints and pictures on their way out", [], {(): totals.uploads}
        )


def _labelled(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(label,): float(count) for label, count in values.items()}


def _family(name: str, help: str, labels: list[str], values: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family
