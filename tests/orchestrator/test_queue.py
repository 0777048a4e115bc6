"""The queue on both databases: claims, room, fences, retries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.states import ErrorType, Move
from orchestrator.store import queue
from orchestrator.store.database import Database
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import DatasetVersion, ModelVersion, Tenant
from tests.orchestrator.queueing import (
    TENANT,
    attempts,
    begin,
    claim,
    event_ids,
    give_room,
    job,
    metrics,
    queue_job,
    room_taken,
    started,
    status,
    status_events,
)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    give_room(database)
    yield database
    database.dispose()


def record(db: Database, ticket: Ticket, batch: Batch) -> str | None:
    with db.write() as tx:
        return queue.record(tx, ticket, batch, lease_s=15.0)


def checkpoint(step: int) -> dict[str, object]:
    return {"step": step, "prefix": f"c/{step}", "manifest_sha256": "0" * 64, "files": [], "bytes": 1}


def test_jobs_are_claimed_by_priority_and_then_by_age(db: Database):
    for name, priority in (("job_1", 0), ("job_2", 5), ("job_3", 0)):
        queue_job(db, name, priority=priority)
    assert [claim(db), claim(db), claim(db), claim(db)] == [("job_2", 1), ("job_1", 1), ("job_3", 1), None]


def test_a_claim_takes_its_room_and_a_job_that_does_not_fit_waits_while_a_smaller_one_passes(db: Database):
    queue_job(db, "job_1", cpus=3)
    queue_job(db, "job_2", cpus=2)
    queue_job(db, "job_3", cpus=1)
    assert claim(db) == ("job_1", 1)
    assert claim(db) == ("job_3", 1)
    assert claim(db) is None
    assert room_taken(db) == 4


def test_room_comes_back_when_an_attempt_ends_however_it_ends(db: Database):
    ends = {
        "job_1": lambda tx, t: queue.finish(tx, t, None),
        "job_2": lambda tx, t: queue.fail(tx, t, ErrorType.INVALID, "no"),
        "job_3": lambda tx, t: queue.lost(tx, t, "gone"),
        "job_4": lambda tx, t: queue.fail(tx, t, ErrorType.TIMEOUT, "over"),
    }
    for name, end in ends.items():
        ticket = started(db, name, max_retries=0)
        assert room_taken(db) == 1
        with db.write() as tx:
            assert end(tx, ticket) is not None
        assert room_taken(db) == 0, name


def test_without_a_ledger_nothing_is_claimed(database_url: str):
    db = Database(database_url)
    queue_job(db, "job_1")
    assert claim(db) is None
    db.dispose()


def test_an_ingest_goes_first_and_takes_no_room(db: Database):
    give_room(db, cpus=1)
    started(db, "job_1")
    queue_job(db, "job_2", priority=9)
    queue_job(db, "job_3", kind="ingest", cpus=0)
    assert claim(db) == ("job_3", 1)
    assert claim(db) is None
    assert room_taken(db) == 1


def test_no_more_ingests_run_at_a_time_than_there_are_cores(db: Database):
    give_room(db, cpus=2)
    for n in range(3):
        queue_job(db, f"job_{n}", kind="ingest", cpus=0)
    assert [claim(db), claim(db), claim(db)] == [("job_0", 1), ("job_1", 1), None]


def test_many_claimers_at_once_share_the_jobs_and_none_is_given_twice(db: Database):
    give_room(db, cpus=40)
    for n in range(40):
        queue_job(db, f"job_{n:02}")
    barrier = threading.Barrier(4)

    def claim_all(owner: int) -> list[Ticket]:
        barrier.wait()
        mine = []
        while (ticket := claim(db, f"dispatcher-{owner}")) is not None:
            mine.append(ticket)
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [ticket for mine in pool.map(claim_all, range(4)) for ticket in mine]
    left = []
    while (ticket := claim(db)) is not None:  # PostgreSQL passes over rows that others held at that moment
        left.append(ticket)
    assert sorted(taken + left) == [(f"job_{n:02}", 1) for n in range(40)]
    assert room_taken(db) == 40


def test_a_worker_presumed_dead_writes_nothing_once_its_successor_has_started(db: Database):
    first = started(db, "job_1")
    with db.write() as tx:
        queue.lost(tx, first, "silent")
    second = claim(db)
    assert second == ("job_1", 2)
    assert begin(db, second)

    assert record(db, first, Batch(step=7, points={"style_loss": [(7, 1.0)]}, checkpoints=[checkpoint(7)])) is None
    assert record(db, second, Batch(step=7, points={"style_loss": [(7, 2.0)]})) == "running"
    with db.write() as tx:
        assert queue.finish(tx, first, None) is None
        assert queue.fail(tx, first, ErrorType.INTERNAL, "late") is None
        assert queue.stop(tx, first) is None
        assert queue.lost(tx, first, "again") is None
        assert queue.drop_checkpoints(tx, first, keep=0) == []
        assert queue.ready_checkpoints(tx, "job_1") == []

    assert metrics(db, "job_1", "style_loss") == {7: 2.0}
    assert status(db, "job_1") == "running"


def test_a_worker_writes_nothing_between_its_loss_and_its_successor(db: Database):
    ticket = started(db, "job_1")
    with db.write() as tx:
        queue.lost(tx, ticket, "silent")
    assert record(db, ticket, Batch(step=1, points={"style_loss": [(1, 1.0)]})) is None
    assert metrics(db, "job_1", "style_loss") == {}
    assert status(db, "job_1") == "queued"


def test_the_start_of_an_attempt_drops_the_metrics_beyond_the_step_it_resumes_from(db: Database):
    first = started(db, "job_1")
    record(db, first, Batch(step=5, points={"loss": [(n, float(n)) for n in range(1, 6)]}, checkpoints=[checkpoint(3)]))
    with db.write() as tx:
        queue.lost(tx, first, "gone")
    second = claim(db)
    assert second is not None
    assert begin(db, second, resumed_from=3)
    assert sorted(metrics(db, "job_1", "loss")) == [1, 2, 3]
    assert job(db, "job_1").step == 3
    assert [a.resumed_from for a in attempts(db, "job_1")] == [0, 3]


def test_a_repeated_batch_overwrites_itself(db: Database):
    ticket = started(db, "job_1")
    batch = Batch(step=2, points={"loss": [(1, 1.0), (2, 2.0)]}, checkpoints=[checkpoint(2)])
    assert record(db, ticket, batch) == record(db, ticket, batch) == "running"
    assert metrics(db, "job_1", "loss") == {1: 1.0, 2: 2.0}
    with db.read() as tx:
        assert [c.step for c in queue.ready_checkpoints(tx, "job_1")] == [2]


def test_event_ids_are_one_two_three_without_a_gap_under_concurrent_writers(db: Database):
    ticket = started(db, "job_1")

    def write(n: int) -> None:
        record(db, ticket, Batch(step=n, points={"loss": [(n, 0.0)]}, log=[{"at": 0, "level": "info", "text": str(n)}]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(1, 13)))
    ids = event_ids(db, "job_1")
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) == 3 + 24  # queued, starting, running; a metric and a log event for each batch


def test_a_wish_to_stop_reaches_the_worker_with_its_next_batch(db: Database):
    ticket = started(db, "job_1")
    with db.write() as tx:
        assert queue.move(tx, "job_1", Move.PAUSE) is not None
    assert record(db, ticket, Batch(step=1)) == "pausing"
    with db.write() as tx:
        assert queue.stop(tx, ticket) is not None
    assert status(db, "job_1") == "paused"
    assert status_events(db, "job_1") == ["queued", "starting", "running", "pausing", "paused"]


def test_a_cancel_that_comes_before_the_publication_wins_and_after_it_changes_nothing(db: Database):
    first = started(db, "job_1")
    with db.write() as tx:
        queue.move(tx, "job_1", Move.CANCEL)
        assert queue.finish(tx, first, _model("job_1")) is None
        queue.stop(tx, first)
    assert status(db, "job_1") == "cancelled"
    second = started(db, "job_2")
    with db.write() as tx:
        assert queue.finish(tx, second, _model("job_2")) is not None
        assert queue.move(tx, "job_2", Move.CANCEL) is None
    assert status(db, "job_2") == "succeeded"
    assert job(db, "job_2").model_version == 1


def test_versions_of_a_name_are_counted_up(db: Database):
    for n in (1, 2, 3):
        ticket = started(db, f"job_{n}")
        with db.write() as tx:
            queue.finish(tx, ticket, _model(f"job_{n}"))
        assert job(db, f"job_{n}").model_version == n


def test_a_lost_attempt_is_charged_only_if_it_brought_no_checkpoint(db: Database):
    first = started(db, "job_1", max_retries=1)
    record(db, first, Batch(step=2, checkpoints=[checkpoint(2)]))
    with db.write() as tx:
        queue.lost(tx, first, "gone")
    assert job(db, "job_1").charged == 0
    for charged in (1, 2):
        ticket = claim(db)
        assert ticket is not None
        begin(db, ticket, resumed_from=2)
        with db.write() as tx:
            queue.lost(tx, ticket, "gone")
        assert job(db, "job_1").charged == charged
    assert status(db, "job_1") == "failed"
    assert [a.outcome for a in attempts(db, "job_1")] == ["lost", "lost", "lost"]


def test_an_attempt_that_never_began_is_given_back_without_a_charge_and_one_that_began_is_not(db: Database):
    queue_job(db, "job_1", max_retries=0)
    ticket = claim(db)
    assert ticket is not None
    with db.write() as tx:
        assert queue.give_back(tx, ticket, "Ray away") is not None
    assert (status(db, "job_1"), job(db, "job_1").charged, room_taken(db)) == ("queued", 0, 0)
    again = claim(db)
    assert again == ("job_1", 2)
    begin(db, again)
    with db.write() as tx:
        assert queue.give_back(tx, again, "Ray away") is None
    assert status(db, "job_1") == "running"


@pytest.mark.parametrize("error", [ErrorType.INVALID, ErrorType.DIVERGED])
def test_what_would_happen_again_is_not_retried(db: Database, error: ErrorType):
    ticket = started(db, "job_1", max_retries=5)
    with db.write() as tx:
        queue.fail(tx, ticket, error, "style_loss is not finite at step 3")
    assert status(db, "job_1") == "failed"
    assert job(db, "job_1").error == {"type": error, "message": "style_loss is not finite at step 3", "attempt": 1}


@pytest.mark.parametrize("how", ["lost", "failed"])
def test_an_ingest_that_fails_for_good_rejects_its_version(db: Database, how: str):
    with db.write() as tx:
        tx.add(Tenant(id=TENANT, name=TENANT, created_at=0.0))
        tx.flush()
        tx.add(
            DatasetVersion(
                tenant_id=TENANT,
                name="photos",
                version=1,
                kind="images",
                status="ingesting",
                files=[],
                list_digest="",
                classes=[],
                refused=[],
                paths={},
                created_at=0.0,
            )
        )
    ticket = started(db, "job_1", kind="ingest", cpus=0, max_retries=0, config={"name": "photos", "version": 1})
    with db.write() as tx:
        if how == "lost":
            queue.lost(tx, ticket, "gone")
        else:
            queue.fail(tx, ticket, ErrorType.STORAGE, "gone")
    with db.read() as tx:
        version = tx.get_one(DatasetVersion, (TENANT, "photos", 1))
    assert (version.status, version.error) == ("rejected", "the ingest failed: gone")


def test_an_error_of_its_own_is_retried_after_a_pause_until_max_retries(db: Database):
    ticket = started(db, "job_1", max_retries=1)
    with db.write() as tx:
        queue.fail(tx, ticket, ErrorType.INTERNAL, "boom")
    assert status(db, "job_1") == "queued"
    assert claim(db) is None, "the back-off has not passed"
    with db.write() as tx:
        tx.get_one(queue.Job, "job_1").not_before = 0.0
    second = claim(db)
    assert second is not None
    begin(db, second)
    with db.write() as tx:
        queue.fail(tx, second, ErrorType.INTERNAL, "boom")
    assert status(db, "job_1") == "failed"


def test_a_loss_while_pausing_ends_paused_and_while_cancelling_ends_cancelled(db: Database):
    for name, wish, end in (("job_1", Move.PAUSE, "paused"), ("job_2", Move.CANCEL, "cancelled")):
        ticket = started(db, name)
        with db.write() as tx:
            queue.move(tx, name, wish)
            queue.lost(tx, ticket, "gone")
        assert status(db, name) == end


def test_the_newest_checkpoints_are_kept_and_one_that_a_retry_starts_from(db: Database):
    ticket = started(db, "job_1")
    for step in (1, 2, 3, 4):
        record(db, ticket, Batch(step=step, checkpoints=[checkpoint(step)]))
    queue_job(db, "job_2", parent="job_1", start_from={"prefix": "c/1"})
    with db.write() as tx:
        assert queue.drop_checkpoints(tx, ticket, keep=2) == ["c/2"]
        assert [c.step for c in queue.ready_checkpoints(tx, "job_1")] == [4, 3, 1]


def test_the_actors_of_active_attempts_are_busy(db: Database):
    queue_job(db, "job_1")
    ticket = claim(db)
    assert ticket is not None
    with db.write() as tx:
        queue.place(tx, ticket, "warm-1")
        assert queue.busy_actors(tx) == {"warm-1"}
        queue.lost(tx, ticket, "gone")
        assert queue.busy_actors(tx) == set()


def _model(job_id: str) -> ModelVersion:
    return ModelVersion(
        tenant_id=TENANT, name="starry", version=0, job_id=job_id, method="metastyle", task="train",
        prefix=f"m/{job_id}", files=[], config={}, lineage={}, created_at=0.0,
    )  # fmt: skip
