"""Estimates over REST, on both databases: asked for before, shown with the job, corrected by how runs came out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from orchestrator.estimate import Speed
from orchestrator.store import costs
from orchestrator.store.tables import Job
from tests.orchestrator.conftest import Api, pointers, small_job
from tests.orchestrator.test_dependencies_api import shown, succeed
from tests.waiting import wait_until


def measured(api: Api) -> None:
    """What a worker tells."""
    with api.db.write() as tx:
        costs.keep_speed(tx, costs.CPU, Speed(5e10, 1e10))


def estimate(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/jobs:estimate", small_job(**changes))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_job_is_estimated_without_being_submitted_and_shows_it_afterwards(api: Api):
    unmeasured = estimate(api)
    assert (unmeasured["steps"], unmeasured["seconds"]) == (20, None)
    assert unmeasured["flops"] > 0
    assert unmeasured["memory_bytes"] > 0
    assert "no worker has measured" in unmeasured["basis"]
    measured(api)
    found = estimate(api)
    expected = found["flops"] / 5e10 + found["bytes"] / 1e10
    assert abs(found["seconds"] / expected - 1) < 1e-9
    assert found["low"] < found["seconds"] < found["high"]
    assert api.get("/v1/jobs").json()["data"] == []
    job = api.job()
    assert job["estimate"] == {key: found[key] for key in ("seconds", "low", "high", "basis")}
    twice = estimate(api, config={"steps": 40, "encoder": "random", "width": 4})
    assert twice["flops"] == 2 * found["flops"], "counted once, for any number of steps"


def test_a_job_of_new_sizes_gets_its_estimate_a_moment_later(api: Api):
    measured(api)
    job = api.job()
    assert job["estimate"] is None
    wait_until(lambda: shown(api, job["id"])["estimate"] is not None, 120, "its steps are counted")


def test_past_runs_correct_the_next_estimate(api: Api):
    measured(api)
    raw_s = estimate(api)["seconds"]
    for ratio in (2.0, 3.0, 4.0):
        job_id = api.job()["id"]
        succeed(api, job_id)
        with api.db.write() as tx:
            tx.execute(update(Job).where(Job.id == job_id).values(running_s=ratio * raw_s))
    found = estimate(api)
    assert abs(found["seconds"] / (3.0 * raw_s) - 1) < 1e-9
    assert found["basis"] == "counted, corrected by 3 past runs"


def test_what_could_not_be_submitted_cannot_be_estimated(api: Api):
    assert pointers(api.post("/v1/jobs:estimate", small_job(method="none"))) == ["/method"]
    assert pointers(api.post("/v1/jobs:estimate", small_job(config={"steps": 0, "encoder": "random"}))) == [
        "/config/steps"
    ]
