"""`depends_on` and `base_job` over REST, on both databases: what waits, what it becomes, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.ids import new_id
from orchestrator.states import ErrorType, Move
from orchestrator.store import claims, consequences, queue
from orchestrator.store.database import Database, db_now
from orchestrator.store.queue import Moved, Ticket
from orchestrator.store.tables import Job, ModelVersion
from tests.orchestrator.conftest import Api, pointers, problem, small_job


def adaptation(**changes: Any) -> dict[str, Any]:
    config = {"steps": 5, "encoder": "random"}
    return small_job(task="adapt", style_image="starry.jpg", config=config) | changes


def begin(api: Api, job_id: str) -> Ticket:
    """Have a dispatcher claim and a worker begin what is first in the queue, which must be this job."""
    api.room(cpus=100)
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=15)
        assert claimed is not None
        assert claimed.ticket.job_id == job_id
        done: dict[str, Any] = {
            "actor": "run",
            "node": "n",
            "pid": 1,
            "resumed_from": 0,
            "total_steps": 5,
            "lease_s": 15.0,
        }
        assert queue.begin(tx, claimed.ticket, **done) is not None
    return claimed.ticket


def succeed(api: Api, job_id: str) -> None:
    ticket = begin(api, job_id)
    with api.db.write() as tx:
        job = tx.get_one(Job, job_id)
        model = ModelVersion(
            tenant_id=api.tenant, name=job.publish_as, version=0, job_id=job_id, method=job.method, task=job.task,
            prefix=f"jobs/{job_id}/model", files=[], config=job.config, lineage={}, created_at=db_now(),
        )  # fmt: skip
        assert queue.finish(tx, ticket, model) is not None


def fail(api: Api, job_id: str) -> None:
    ticket = begin(api, job_id)
    with api.db.write() as tx:
        assert queue.fail(tx, ticket, ErrorType.DIVERGED, "style_loss became nan") is not None


def draw(db: Database) -> list[Moved]:
    """What a dispatcher does each turn."""
    moved: list[Moved] = []
    while True:
        with db.write() as tx:
            drawn = consequences.draw(tx)
        if drawn is None:
            return moved
        moved += drawn


def shown(api: Api, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/jobs/{job_id}").json()
    return found


def test_a_job_waits_until_all_that_it_depends_on_have_succeeded(api: Api):
    first, second = api.job()["id"], api.job()["id"]
    waiting = api.job(depends_on=[second, first, second])
    assert (waiting["status"], waiting["phase"], waiting["depends_on"]) == ("blocked", "pending", [second, first])
    assert (waiting["waiting"]["reason"], waiting["waiting"]["position"]) == ("dependencies", None)
    succeed(api, first)
    assert draw(api.db) == []
    assert shown(api, waiting["id"])["status"] == "blocked"
    succeed(api, second)
    assert [(m.job_id, m.status) for m in draw(api.db)] == [(waiting["id"], "queued")]
    assert shown(api, waiting["id"])["waiting"]["position"] == 1
    statuses = [e["status"] for e in api.get(f"/v1/jobs/{waiting['id']}/events").json()["data"]]
    assert statuses == ["blocked", "queued"]


def test_what_has_succeeded_already_is_not_waited_for(api: Api):
    first = api.job()["id"]
    succeed(api, first)
    job = api.job(depends_on=[first])
    assert (job["status"], job["depends_on"]) == ("queued", [first])


def test_a_job_whose_dependency_fails_has_failed_and_says_by_whom_along_the_whole_chain(api: Api):
    first = api.job()["id"]
    second = api.job(depends_on=[first])["id"]
    third = api.job(depends_on=[second])["id"]
    fail(api, first)
    draw(api.db)
    for job_id, by in ((second, first), (third, second)):
        job = shown(api, job_id)
        assert (job["status"], job["error"]["type"]) == ("failed", "dependency")
        assert f"{by}, which this job depends on, ended as failed" in job["error"]["message"]
        assert job["finished_at"] is not None


def test_a_job_whose_dependency_is_cancelled_is_cancelled(api: Api):
    first = api.job()["id"]
    second = api.job(depends_on=[first])["id"]
    api.post(f"/v1/jobs/{first}/cancel")
    draw(api.db)
    job = shown(api, second)
    assert (job["status"], job["error"]["message"]) == (
        "cancelled",
        f"{first}, which this job depends on, ended as cancelled",
    )


def test_a_blocked_job_can_be_cancelled_but_not_paused(api: Api):
    first = api.job()["id"]
    waiting = api.job(depends_on=[first])["id"]
    problem(api.post(f"/v1/jobs/{waiting}/pause"), 409)
    assert api.post(f"/v1/jobs/{waiting}/cancel").json()["status"] == "cancelled"
    succeed(api, first)
    assert draw(api.db) == []
    assert shown(api, waiting)["status"] == "cancelled"


def test_an_adaptation_starts_from_what_the_job_before_it_publishes(api: Api):
    train = api.job(publish_as="meta")
    answer = api.post("/v1/jobs", adaptation(base_job=train["id"]))
    assert answer.status_code == 201, answer.text
    adapt = answer.json()
    assert (adapt["status"], adapt["base_model"], adapt["base_job"]) == ("blocked", None, train["id"])
    assert adapt["depends_on"] == [train["id"]]
    assert adapt["config"]["width"] == train["config"]["width"] == 4, "the base's networks are to be these"
    succeed(api, train["id"])
    draw(api.db)
    adapt = shown(api, adapt["id"])
    assert (adapt["status"], adapt["base_model"]) == ("queued", "meta@1")
    again = api.post("/v1/jobs", adaptation(base_job=train["id"])).json()
    assert (again["status"], again["base_model"]) == ("queued", "meta@1")


def test_a_base_job_that_cannot_be_one_is_refused_with_its_field(api: Api):
    train = api.job(publish_as="meta")["id"]
    failed = api.job()["id"]
    api.post(f"/v1/jobs/{failed}/cancel")
    api.add_model("other")
    unusable = [
        (adaptation(base_job=new_id("job")), "/base_job"),
        (adaptation(base_job=failed), "/base_job"),
        (adaptation(base_job=train, base_model="other"), "/base_job"),
        (adaptation(base_job=train, config={"encoder": "random", "width": 9}), "/config/width"),
        (small_job(base_job=train), "/base_job"),
        (small_job(depends_on=[new_id("job")]), "/depends_on/0"),
        (small_job(depends_on=[train, failed]), "/depends_on/1"),
        (small_job(depends_on=["job_1"]), "/depends_on/0"),
    ]
    assert [pointers(api.post("/v1/jobs", body)) for body, _ in unusable] == [[pointer] for _, pointer in unusable]
    adapted = api.post("/v1/jobs", adaptation(base_job=train)).json()["id"]
    assert pointers(api.post("/v1/jobs", adaptation(base_job=adapted))) == ["/base_job"], "an adaptation is no base"


def test_nobody_waits_for_a_job_of_another_tenant(api: Api, stranger: Api):
    stranger.add_dataset("photos")
    stranger.add_dataset("paintings", paths=("starry.jpg",))
    foreign = api.job()["id"]
    assert pointers(stranger.post("/v1/jobs", small_job(depends_on=[foreign]))) == ["/depends_on/0"]
    assert pointers(stranger.post("/v1/jobs", adaptation(base_job=foreign))) == ["/base_job"]


def test_a_retry_waits_for_the_retry_of_what_failed(api: Api):
    train = api.job(publish_as="meta")["id"]
    adapt = api.post("/v1/jobs", adaptation(base_job=train)).json()["id"]
    fail(api, train)
    draw(api.db)
    problem(api.post(f"/v1/jobs/{adapt}/retry"), 409)
    train_again = api.post(f"/v1/jobs/{train}/retry").json()["id"]
    adapt_again = api.post(f"/v1/jobs/{adapt}/retry").json()
    assert (adapt_again["status"], adapt_again["depends_on"]) == ("blocked", [train_again])
    assert adapt_again["base_job"] == train_again
    succeed(api, train_again)
    draw(api.db)
    assert shown(api, adapt_again["id"])["base_model"] == "meta@1"


def test_a_submit_and_the_end_of_what_it_depends_on_never_miss_each_other(api: Api):
    for _ in range(6):
        first = api.job()["id"]
        ticket = begin(api, first)
        with ThreadPoolExecutor(2) as pool:
            submitted = pool.submit(api.job, depends_on=[first])
            ended = pool.submit(_fail, api.db, ticket)
            ended.result()
            waiting = submitted.result() if submitted.exception() is None else None
        draw(api.db)
        if waiting is not None:
            assert shown(api, waiting["id"])["status"] == "failed"


def _fail(db: Database, ticket: Ticket) -> None:
    with db.write() as tx:
        queue.fail(tx, ticket, ErrorType.DIVERGED, "nan")


def test_many_dispatchers_release_everybody_exactly_once(api: Api):
    first, second = api.job()["id"], api.job()["id"]
    both = [first, second]
    waiting = [api.job(depends_on=both[: 1 + n % 2])["id"] for n in range(8)]
    succeed(api, first)
    succeed(api, second)
    with ThreadPoolExecutor(4) as pool:
        moved = [m.job_id for found in pool.map(draw, [api.db] * 4) for m in found]
    assert sorted(moved) == sorted(waiting)
    assert {shown(api, job_id)["status"] for job_id in waiting} == {"queued"}
    for job_id in waiting:
        with api.db.write() as tx:
            assert queue.move(tx, job_id, Move.UNBLOCK) is None
