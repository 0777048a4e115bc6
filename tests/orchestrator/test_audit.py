"""The audit log: every changing request is in it, once, with what became of it. On both databases where rows decide."""

from __future__ import annotations

import re
from contextvars import copy_context
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from orchestrator.dispatch.sweep import Sweeper
from orchestrator.store import audit
from orchestrator.store.database import Database, db_now
from orchestrator.store.tables import AuditEntry, Job
from tests.orchestrator.conftest import Api, problem, small_job
from tests.orchestrator.routes import api_routes, scope_of, verbs


def entries(api: Api, **filters: str) -> list[dict[str, Any]]:
    """Oldest first."""
    answer = api.get("/v1/audit", params=filters)
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["data"]))


def test_a_change_stands_in_the_log_with_what_it_made(api: Api):
    own = api.get("/v1/keys/current").json()["id"]
    job = api.job()["id"]
    api.post(f"/v1/jobs/{job}/cancel")
    made, cancelled = entries(api)
    assert (made["verb"], made["route"], made["resource"], made["made"], made["status"]) == (
        "POST", "/v1/jobs", "", job, 201,
    )  # fmt: skip
    assert (made["tenant"], made["key"], made["ip"]) == ("default", own, "testclient")
    assert (cancelled["route"], cancelled["resource"], cancelled["status"]) == ("/v1/jobs/{id}/cancel", job, 200)
    assert [entry["route"] for entry in entries(api, resource=job)] == ["/v1/jobs", "/v1/jobs/{id}/cancel"]


def test_what_looks_or_has_no_key_is_not_in_it(api: Api):
    api.get("/v1/jobs")
    api.get("/v1/jobs/job_x")
    api.client.post("/v1/jobs", json=small_job())
    assert entries(api) == []


def test_what_was_refused_is_in_it_with_the_answer(api: Api, stranger: Api):
    job = api.job()["id"]
    problem(stranger.post(f"/v1/jobs/{job}/cancel"), 404)
    problem(stranger.post("/v1/keys", {"name": "more"}), 403)
    problem(stranger.post("/v1/jobs", {"method": "nothing"}), 422)
    refused = entries(api, tenant="other")
    assert [(entry["route"], entry["status"], entry["made"]) for entry in refused] == [
        ("/v1/jobs/{id}/cancel", 404, None),
        ("/v1/keys", 403, None),
        ("/v1/jobs", 422, None),
    ]
    assert refused[0]["resource"] == job


def test_an_entry_is_part_of_the_transaction_that_it_tells_of(api: Api, monkeypatch: pytest.MonkeyPatch):
    """A job is never there without its entry: whoever reads sees both or none."""
    seen: list[tuple[int, int]] = []
    real = Database.write

    def watched(self: Database) -> Any:
        with self.read() as tx:
            seen.append((len(tx.scalars(select(Job.id)).all()), len(tx.scalars(select(AuditEntry.id)).all())))
        return real(self)

    monkeypatch.setattr(Database, "write", watched)
    for _ in range(3):
        api.job()
    assert all(jobs == noted for jobs, noted in seen)
    assert len(entries(api)) == 3


def test_a_repeated_request_names_what_the_first_one_made(api: Api):
    headers = {"Idempotency-Key": "k"}
    job = api.post("/v1/jobs", small_job(), headers=headers).json()["id"]
    api.post("/v1/jobs", small_job(), headers=headers)
    assert [entry["made"] for entry in entries(api)] == [job, job]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_route_that_changes_something_leaves_exactly_one_entry(api: Api, app: FastAPI):
    asked = 0
    for route in api_routes(app):
        for verb in verbs(route):
            if verb == "GET" or scope_of(route) is None:
                continue
            before = len(entries(api, limit="200"))
            answer = api.request(verb, re.sub(r"{[^}]*}", "1", route.path), json={"name": "x"})
            found = entries(api, limit="200")
            assert len(found) == before + 1, (verb, route.path, answer.text)
            assert (found[-1]["verb"], found[-1]["route"]) == (verb, route.path)
            assert found[-1]["status"] == answer.status_code, (verb, route.path)
            asked += 1
    assert asked > 20


def test_a_manager_reads_its_tenants_log_alone(api: Api, stranger: Api):
    manager = api.post("/v1/keys", {"name": "m", "tenant": "other", "scopes": ["manage"]}).json()["key"]
    manager_api = Api(api.client, manager, api.db, api.objects)
    stranger.post("/v1/jobs/job_x/cancel")
    assert {entry["tenant"] for entry in entries(manager_api)} == {"other"}
    assert {entry["tenant"] for entry in entries(api)} == {"default", "other"}
    problem(manager_api.get("/v1/audit", params={"tenant": "default"}), 403)
    problem(stranger.get("/v1/audit"), 403)
    problem(api.get("/v1/audit", params={"tenant": "nobody"}), 404)


def test_pages_of_the_log_fit_together(api: Api):
    for n in range(5):
        api.post(f"/v1/jobs/job_{n}/cancel")
    first = api.get("/v1/audit", params={"limit": 3}).json()
    rest = api.get("/v1/audit", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [e["resource"] for e in first["data"] + rest["data"]] == [f"job_{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next_cursor"] is None


def test_the_janitor_forgets_what_is_too_old(api: Api):
    api.job()
    api.job()
    newest = entries(api)[-1]["id"]
    with api.db.write() as tx:
        tx.execute(update(AuditEntry).where(AuditEntry.id != newest).values(at=db_now() - 8 * 86_400))
    Sweeper(api.db, api.objects, audit_days=7).sweep()
    assert [entry["id"] for entry in entries(api)] == [newest]


def test_a_transaction_that_is_repeated_writes_its_entry_with_the_one_that_counts(db: Database):
    class Failed(Exception):
        pass

    def change(*, fail: bool) -> None:
        with db.write():
            if fail:
                raise Failed

    def commit_fails() -> None:
        with db.write() as tx:
            tx.commit = refuse  # type: ignore[method-assign]

    def refuse() -> None:
        raise Failed

    def request() -> None:
        audit.begin(audit.Entry("tenant_t", "key_1", "POST", "/v1/jobs", "", 201, None))
        for failing in (lambda: change(fail=True), commit_fails):
            with pytest.raises(Failed):
                failing()
        change(fail=False)
        change(fail=False)

    copy_context().run(request)
    with db.read() as tx:
        assert tx.scalars(select(AuditEntry.status)).all() == [201]
