"""Keys, tenants and the web page's session, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from orchestrator.sessions import COOKIE
from orchestrator.store.tables import ApiKey
from tests.orchestrator.conftest import ADMIN_KEY, Api, digest, pointers, problem, small_job

OWN = {"Origin": "http://testserver"}


def test_a_key_is_shown_once_and_only_its_digest_is_kept(api: Api):
    answer = api.post("/v1/keys", {"name": "laptop"})
    assert answer.status_code == 201
    made = answer.json()
    assert made["key"].startswith("sf_")
    assert len(made["key"]) == len("sf_") + 43, "32 random bytes"
    assert (made["name"], made["tenant"], made["admin"], made["revoked_at"]) == ("laptop", "default", False, None)
    assert made["key"].startswith(made["prefix"])
    assert answer.headers["cache-control"] == "no-store"
    listed = api.get("/v1/keys").json()["data"]
    assert [key["name"] for key in listed] == ["administrator", "laptop"]
    assert all("key" not in key for key in listed)
    with api.db.read() as tx:
        assert tx.scalars(select(ApiKey.sha256).where(ApiKey.id == made["id"])).one() == digest(made["key"])
        rows = [str(row) for row in tx.execute(text("SELECT * FROM api_keys"))]
    assert not any(made["key"] in row for row in rows)


def test_a_key_works_until_it_is_revoked(api: Api, stranger: Api):
    assert stranger.get("/v1/jobs").status_code == 200
    key_id = next(key["id"] for key in api.get("/v1/keys").json()["data"] if key["name"] == "stranger")
    revoked = api.post(f"/v1/keys/{key_id}/revoke").json()
    assert revoked["revoked_at"] is not None
    problem(stranger.get("/v1/jobs"), 401)
    assert api.post(f"/v1/keys/{key_id}/revoke").json() == revoked, "it stays revoked from that moment"
    problem(api.post("/v1/keys/key_nonsense/revoke"), 404)


def test_keys_of_a_tenant_see_its_things(api: Api, stranger: Api):
    colleague = api.post("/v1/keys", {"name": "colleague", "tenant": "other"}).json()
    assert colleague["tenant"] == "other"
    stranger.add_dataset("theirs")
    headers = {"Authorization": f"Bearer {colleague['key']}"}
    assert api.client.get("/v1/datasets/theirs", headers=headers).status_code == 200
    assert [tenant["name"] for tenant in api.get("/v1/tenants").json()["data"]] == ["default", "other"]


def test_a_repeated_request_makes_one_key_and_does_not_show_it_again(api: Api):
    headers = {"Idempotency-Key": "k"}
    first = api.post("/v1/keys", {"name": "a"}, headers=headers).json()
    again = api.post("/v1/keys", {"name": "a"}, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["key"]) == (201, first["id"], None)
    assert len(api.get("/v1/keys").json()["data"]) == 2


def test_tenants_are_made_once(api: Api):
    first = api.post("/v1/tenants", {"name": "studio"})
    again = api.post("/v1/tenants", {"name": "studio"})
    assert first.status_code == 201
    assert first.json() == again.json()
    assert pointers(api.post("/v1/tenants", {"name": "no name"})) == ["/name"]


def test_keys_and_tenants_are_an_administrators_affair(api: Api, stranger: Api):
    for method, path, body in (
        ("GET", "/v1/keys", None),
        ("POST", "/v1/keys", {"name": "mine", "admin": True}),
        ("POST", "/v1/keys/key_1/revoke", None),
        ("GET", "/v1/tenants", None),
        ("POST", "/v1/tenants", {"name": "mine"}),
    ):
        problem(stranger.request(method, path, json=body), 403)
    promoted = api.post("/v1/keys", {"name": "chief", "tenant": "other", "admin": True}).json()
    headers = {"Authorization": f"Bearer {promoted['key']}"}
    assert api.client.get("/v1/keys", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer sf_wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic sf_x"},
        {"X": "y"},
    ],
)
def test_without_a_valid_key_nothing_is_told(api: Api, headers: dict[str, str]):
    for path in ("/v1/jobs", "/v1/jobs/job_x/events", "/v1/methods", "/v1/keys", "/v1/models/x", "/v1/datasets"):
        answer = api.client.get(path, headers=headers)
        problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(api.client.post("/v1/jobs", headers=headers, json=small_job()), 401)


# --- the session of the web page --------------------------------------------------------------------------------------


def log_in(client: TestClient, key: str = ADMIN_KEY, **headers: str) -> Any:
    return client.post("/v1/session", json={"key": key}, headers=headers)


def test_a_key_is_traded_for_a_cookie_that_scripts_cannot_read(api: Api):
    answer = log_in(api.client, **OWN)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert api.client.get("/v1/jobs").status_code == 200
    api.client.post("/v1/session/end", headers=OWN)
    problem(api.client.get("/v1/jobs"), 401)
    problem(log_in(api.client, "sf_wrong", **OWN), 401)


@pytest.mark.parametrize("origin", [None, "https://evil.example", "http://testserver.evil.example", "null", "http://["])
def test_what_another_site_sends_with_our_cookie_is_refused(api: Api, origin: str | None):
    job = api.job()["id"]
    log_in(api.client, **OWN)
    headers = {} if origin is None else {"Origin": origin}
    problem(api.client.post(f"/v1/jobs/{job}/cancel", headers=headers), 403)
    problem(log_in(api.client, **headers), 403)
    assert api.client.get(f"/v1/jobs/{job}", headers=headers).json()["status"] == "queued"
    assert api.client.post(f"/v1/jobs/{job}/cancel", headers=OWN).json()["status"] == "cancelled"
