"""Queries that the API stands on, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import inspect, update

from orchestrator.ids import is_id, new_id
from orchestrator.store import datasets, idempotency, jobs, keys
from orchestrator.store.access import Access
from orchestrator.store.database import Database, db_now
from orchestrator.store.jobs import NewJob
from orchestrator.store.tables import IdempotencyKey, Job
from orchestrator.store.waiting import MOST_TOLD

DAY_S = 24 * 3600


def submit(db: Database, count: int = 1, *, priority: int = 0) -> list[str]:
    ids = [new_id("job") for _ in range(count)]
    with db.write() as tx:
        for job_id in ids:
            new = NewJob(
                job_id, "tenant_t", method="m", task="t", name="n", config={}, cpus=1, gpus=0, max_retries=0,
                total_steps=1, priority=priority,
            )  # fmt: skip
            jobs.submit(tx, new)
    return ids


def position(db: Database, job_id: str) -> int | None:
    with db.read() as tx:
        (shown,) = jobs.shown(tx, [tx.get_one(Job, job_id)])
    assert shown.waiting is not None
    return shown.waiting.position


def test_ids_are_in_the_order_in_which_they_were_made():
    with ThreadPoolExecutor(4) as pool:
        ids = [made for batch in pool.map(lambda _: [new_id("job") for _ in range(1000)], range(4)) for made in batch]
    assert len(set(ids)) == 4000
    made = [new_id("job") for _ in range(1000)]
    assert made == sorted(made)
    assert made[0] > max(ids)
    assert all(is_id("job", one) for one in made)
    assert not is_id("job", "job_1")
    assert not is_id("job", new_id("key"))
    assert not is_id("job", new_id("job") + "\n")


def test_a_position_counts_who_is_more_urgent_or_older(db: Database):
    old, new = submit(db, 2)
    (urgent,) = submit(db, priority=1)
    assert [position(db, job) for job in (urgent, old, new)] == [1, 2, 3]


def test_far_back_in_a_long_queue_no_position_is_counted(db: Database):
    ids = submit(db, MOST_TOLD + 1)
    assert position(db, ids[-2]) == MOST_TOLD
    assert position(db, ids[-1]) is None


def test_a_submitted_job_is_the_row_that_was_written(db: Database):
    with db.write() as tx:
        returned = jobs.submit(
            tx,
            NewJob(
                new_id("job"), "tenant_t", method="m", task="t", name="n", config={"a": [1, None]}, cpus=1, gpus=0,
                max_retries=0, total_steps=9, tags={"k": "v"},
                start_from={"job": "job_0", "attempt": 1, "step": 5, "prefix": "p", "manifest_sha256": "m"},
            ),
        )  # fmt: skip
    with db.read() as tx:
        written = tx.get_one(Job, returned.id)
        for column in inspect(Job).column_attrs:
            assert getattr(returned, column.key) == getattr(written, column.key), column.key
        assert written.step == 5


def test_an_idempotency_key_is_free_again_after_a_day(db: Database):
    def claim(fingerprint: str) -> idempotency.Made | None:
        with db.write() as tx:
            return idempotency.claim(tx, "tenant_t", "k", fingerprint=fingerprint, status=201, resource=fingerprint)

    def age(seconds: float) -> None:
        with db.write() as tx:
            tx.execute(update(IdempotencyKey).values(created_at=db_now() - seconds))

    assert claim("a") is None
    assert claim("b") == idempotency.Made("a", 201, "a")
    age(DAY_S - 60)
    assert claim("b") == idempotency.Made("a", 201, "a")
    age(DAY_S + 60)
    assert claim("b") is None
    assert claim("c") == idempotency.Made("b", 201, "b")


def test_a_transaction_that_fails_leaves_the_key_free(db: Database):
    class Failed(Exception):
        pass

    try:
        with db.write() as tx:
            idempotency.claim(tx, "tenant_t", "k", fingerprint="a", status=201, resource="a")
            raise Failed
    except Failed:
        pass
    with db.write() as tx:
        assert idempotency.claim(tx, "tenant_t", "k", fingerprint="b", status=201, resource="b") is None


def test_the_key_of_the_settings_is_made_known_once(db: Database):
    for _ in range(2):
        with db.write() as tx:
            keys.ensure_admin(tx, "sf_first")
    with db.read() as tx:
        caller = keys.caller_of(tx, keys.digest_of("sf_first"))
        assert caller is not None
        assert (caller.tenant_name, caller.admin) == ("default", True)
        assert len(keys.page(tx, after=None, limit=10)) == 1
    with db.write() as tx:
        keys.revoke(tx, caller.key_id)
        keys.ensure_admin(tx, "sf_first")
        assert keys.caller_of(tx, keys.digest_of("sf_first")) is None, "a restart does not bring it back"


def test_a_key_is_remembered_until_it_is_forgotten(db: Database):
    with db.write() as tx:
        keys.ensure_admin(tx, "sf_first")
    access = Access(db)
    assert access.remembered("sf_first") is None
    caller = access.find("sf_first")
    assert caller is not None
    assert access.remembered("sf_first") == caller
    with db.write() as tx:
        keys.revoke(tx, caller.key_id)
    access.forget()
    assert access.find("sf_first") is None
    assert access.find("sf_unknown") is None


def test_the_digest_of_a_list_is_that_of_its_files_in_any_order():
    a, b = {"path": "a", "sha256": "1"}, {"path": "b", "sha256": "2"}
    assert datasets.list_digest("images", [a, b]) == datasets.list_digest("images", [b, a])
    others = [
        datasets.list_digest("labelled", [a, b]),
        datasets.list_digest("images", [a]),
        datasets.list_digest("images", [{"path": "a", "sha256": "2"}, {"path": "b", "sha256": "1"}]),
    ]
    assert len({datasets.list_digest("images", [a, b]), *others}) == 4
