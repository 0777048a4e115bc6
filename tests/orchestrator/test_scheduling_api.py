"""Classes, deadlines, quotas and shares as callers and administrators see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.store import claims
from tests.orchestrator.conftest import Api, pointers, problem, small_job


def set_tenant(api: Api, name: str, **values: object) -> dict[str, object]:
    answer = api.request("PATCH", f"/v1/tenants/{name}", json=values)
    assert answer.status_code == 200, answer.text
    changed: dict[str, object] = answer.json()
    return changed


def waiting(api: Api, job_id: str) -> dict[str, object]:
    told: dict[str, object] = api.get(f"/v1/jobs/{job_id}").json()["waiting"]
    return told


def test_a_job_is_of_the_usual_class_unless_it_names_another_that_there_is(api: Api):
    assert api.job()["class"] == "standard"
    assert api.job(**{"class": "urgent"})["class"] == "urgent"
    answer = api.post("/v1/jobs", small_job(**{"class": "royal"}))
    assert pointers(answer) == ["/class"]
    assert "spare, standard, urgent" in answer.json()["detail"]


def test_a_tenant_uses_the_classes_that_it_was_given(api: Api):
    set_tenant(api, "default", classes=["spare"])
    assert pointers(api.post("/v1/jobs", small_job(**{"class": "urgent"}))) == ["/class"]
    assert api.job(**{"class": "spare"})["class"] == "spare"
    assert api.job()["class"] == "standard"
    assert api.get("/v1/quota").json()["classes"] == ["spare", "standard"]
    set_tenant(api, "default", classes=None)
    assert api.job(**{"class": "urgent"})["class"] == "urgent"
    assert pointers(api.request("PATCH", "/v1/tenants/default", json={"classes": ["royal"]})) == ["/classes"]


def test_a_deadline_is_an_instant_with_a_time_zone(api: Api):
    at = datetime(2100, 1, 31, 12, tzinfo=UTC)
    assert api.job(deadline="2100-01-31T13:00:00+01:00")["deadline"] == "2100-01-31T12:00:00.000Z"
    assert api.job(deadline=at.isoformat())["deadline"] == "2100-01-31T12:00:00.000Z"
    for wrong in ("2100-01-31T12:00:00", "2100-01-31", "soon", 4102444800, "2100-02-31T12:00:00Z"):
        assert pointers(api.post("/v1/jobs", small_job(deadline=wrong))) == ["/deadline"], wrong


def test_a_deadline_that_has_passed_already_is_refused(api: Api):
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert pointers(api.post("/v1/jobs", small_job(deadline=yesterday))) == ["/deadline"]


def test_no_more_jobs_wait_than_a_tenant_may_have_waiting(api: Api):
    api.room(cpus=4)
    set_tenant(api, "default", max_queued=2)
    first, second = api.job(), api.job()
    api.post(f"/v1/jobs/{second['id']}/pause")
    refused = problem(api.post("/v1/jobs", small_job()), 409)
    assert refused["type"].endswith(":limit-reached")
    assert "at most 2" in refused["detail"]
    assert len(api.get("/v1/jobs").json()["data"]) == 2, "a refused job leaves nothing behind"
    with api.db.write() as tx:
        assert claims.claim_next(tx, owner="test", lease_s=60) is not None
    assert api.get(f"/v1/jobs/{first['id']}").json()["status"] == "starting"
    api.job()


def test_a_tenant_sees_its_quota_and_what_it_holds(api: Api, stranger: Api):
    api.room(cpus=4)
    set_tenant(api, "other", max_cpus=2, max_queued=5, weight=2.0)
    stranger.add_dataset("photos")
    stranger.add_dataset("paintings", paths=("starry.jpg",))
    stranger.job(resources={"cpus_per_worker": 2})
    behind = stranger.job()["id"]
    with api.db.write() as tx:
        assert claims.claim_next(tx, owner="test", lease_s=60) is not None
    seen = stranger.get("/v1/quota").json()
    assert seen["tenant"] == "other"
    assert seen["cpus"] == {"held": 2, "limit": 2}
    assert seen["gpus"] == {"held": 0, "limit": None}
    assert seen["waiting"] == {"held": 1, "limit": 5}
    assert seen["share"] == pytest.approx(0.5 / 2, abs=0.01)
    assert waiting(stranger, behind) == {"reason": "quota", "position": None, "estimated_start": None}


def test_quotas_are_set_by_administrators_only_and_within_reason(api: Api, stranger: Api):
    problem(stranger.request("PATCH", "/v1/tenants/other", json={"max_cpus": 99}), 403)
    changed = set_tenant(api, "other", max_gpus=3, weight=0.5)
    assert (changed["max_gpus"], changed["weight"], changed["max_cpus"]) == (3, 0.5, None)
    for wrong in ({"weight": 0}, {"max_cpus": -1}, {"max_queued": 10**9}):
        assert pointers(api.request("PATCH", "/v1/tenants/other", json=wrong)) == [f"/{next(iter(wrong))}"]


def test_a_waiting_job_is_told_when_it_may_start(api: Api):
    api.room(cpus=1)
    api.job(timeout_s=1000.0)
    with api.db.write() as tx:
        assert claims.claim_next(tx, owner="test", lease_s=60) is not None
    told = waiting(api, api.job()["id"])
    assert (told["reason"], told["position"]) == ("room", 1)
    expected = datetime.fromisoformat(str(told["estimated_start"])) - datetime.now(UTC)
    assert timedelta(0) < expected <= timedelta(seconds=1000)


def test_answers_to_submits_tell_places_up_to_a_limit_however_long_the_queue_is(api: Api):
    api.room(cpus=4)
    places = [api.job()["waiting"]["position"] for _ in range(5)]
    assert places == [1, 2, 3, 4, 5]
