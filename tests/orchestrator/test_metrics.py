"""What `/metrics` tells, of the API and of a dispatcher, and that dashboard and alerts ask for nothing else."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from orchestrator import meters
from orchestrator.api.figures import Figures
from orchestrator.api.traffic import Traffic
from orchestrator.bus import Bus
from orchestrator.dispatch.serve import LIVE_S, serving
from orchestrator.meters import DispatcherMeters
from orchestrator.states import Status
from orchestrator.store import queue
from orchestrator.store.database import Database, db_now
from orchestrator.store.queue import Batch
from orchestrator.store.tables import Attempt, Job
from tests.orchestrator.queueing import give_room, queue_job, started
from tests.servers import ValkeyServer

ROOT = Path(__file__).parents[2]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    give_room(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def bus(redis_url: str) -> Bus:
    return Bus(redis_url)


def told(db: Database, bus: Bus) -> dict[str, float]:
    """Every sample, labels behind its name."""
    registry = CollectorRegistry()
    registry.register(Figures(db, bus))
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {s.name + "".join(f"{{{k}={v}}}" for k, v in s.labels.items()): s.value for s in samples}


def names(registry: CollectorRegistry) -> set[str]:
    return {family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type]}


def test_dashboard_and_alerts_ask_for_figures_that_there_are(db: Database, bus: Bus):
    registry = CollectorRegistry()
    Traffic(registry)
    registry.register(Figures(db, bus))
    there = names(registry) | names(DispatcherMeters().registry)
    files = [ROOT / "deploy/chart/files" / name for name in ("alerts.yml", "dashboard.json")]
    asked_for = set(re.findall(r"stylefoundry_\w+", "".join(file.read_text() for file in files)))
    assert asked_for <= there
    unseen = {name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket") for name in there - asked_for}
    assert not {name for name in unseen if f"{name}_bucket" not in asked_for}, "on neither"


def test_the_age_of_the_queue_is_told_by_class(db: Database, bus: Bus):
    with db.read() as tx:
        now = tx.scalar(select(db_now())) or 0.0
    queue_job(db, "job_old", created_at=now - 500)
    queue_job(db, "job_new")
    queue_job(db, "job_urgent", class_="urgent", created_at=now - 900, queued_at=now - 100)
    queue_job(db, "job_ingest", kind="ingest")
    figures = told(db, bus)
    assert figures["stylefoundry_queue_length{class=standard}"] == 2
    assert figures["stylefoundry_queue_length{class=ingest}"] == 1
    assert 500 <= figures["stylefoundry_queue_oldest_seconds{class=standard}"] < 600
    assert 100 <= figures["stylefoundry_queue_oldest_seconds{class=urgent}"] < 200, "paused time is no waiting"
    assert figures["stylefoundry_jobs{status=queued}"] == 3


def test_the_lag_of_checkpoints_is_that_of_the_job_that_is_furthest_behind(db: Database, bus: Bus):
    assert told(db, bus)["stylefoundry_checkpoint_lag_seconds"] == 0
    for job_id in ("job_a", "job_b"):
        ticket = started(db, job_id)
        with db.write() as tx:
            tx.execute(update(Attempt).where(Attempt.job_id == job_id).values(started_at=db_now() - 300))
    row = {"step": 5, "prefix": "p", "manifest_sha256": "m", "files": [], "bytes": 1}
    with db.write() as tx:
        queue.record(tx, ticket, Batch(step=5, checkpoints=[row]), lease_s=60)
    assert 300 <= told(db, bus)["stylefoundry_checkpoint_lag_seconds"] < 400, "job_a has none"
    with db.write() as tx:
        tx.execute(update(Job).where(Job.id == "job_a").values(status=Status.SUCCEEDED))
    assert told(db, bus)["stylefoundry_checkpoint_lag_seconds"] < 100, "job_b has a fresh one"


def test_what_workers_count_is_told_by_every_replica(db: Database, bus: Bus):
    bus.count({"cache_hits": 3, "steps": 10}, job_id="job_a", uploads=2)
    bus.count({"cache_hits": 1}, job_id="job_b", uploads=1)
    bus.say_idle("warm-1")
    figures = told(db, bus)
    assert figures["stylefoundry_cache_hits_total"] == 4
    assert figures["stylefoundry_steps_total"] == 10
    assert figures["stylefoundry_fenced_writes_total"] == 0
    assert figures["stylefoundry_uploads_waiting"] == 3
    assert figures["stylefoundry_warm_idle"] == 1
    bus.count({}, job_id="job_a", uploads=0)
    assert told(db, bus)["stylefoundry_uploads_waiting"] == 1


def test_without_redis_only_the_workers_figures_are_missing(db: Database, bus: Bus, valkey_server: ValkeyServer):
    valkey_server.kill()
    figures = told(db, bus)
    assert "stylefoundry_cache_hits_total" not in figures
    assert figures["stylefoundry_jobs{status=queued}"] == 0
    bus.count({"steps": 1}, job_id="job_a", uploads=0)  # is lost, and nobody minds


def test_a_tally_is_taken_once():
    tally = meters.Tally()
    tally.add("steps", 2)
    tally.add("steps")
    assert tally.take() == {"steps": 3}
    assert tally.take() == {}
    with pytest.raises(KeyError):
        tally.add("stepz")


def test_a_dispatcher_tells_its_figures_and_whether_it_turns():
    idle_s = [0.0]
    figures = DispatcherMeters()
    figures.lost.labels("lease").inc()
    with serving("127.0.0.1", 0, figures.registry, lambda: idle_s[0]) as port:
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            assert b'stylefoundry_attempts_lost_total{why="lease"} 1.0' in answer.read()
        with urllib.request.urlopen(f"{address}/livez", timeout=5) as answer:
            assert answer.status == 200
        idle_s[0] = LIVE_S + 1
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{address}/livez", timeout=5)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/", timeout=5)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/livez", timeout=5)
