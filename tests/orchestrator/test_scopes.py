"""What a key may do: every route says which scope it needs, and asks for it. On both databases where rows decide."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from orchestrator.scopes import EVERY, USUAL, Scope, scopes_of, text_of
from orchestrator.store.database import db_now
from orchestrator.store.tables import ApiKey
from orchestrator.web import site
from tests.orchestrator.conftest import ADMIN_KEY, Api, problem, small_job
from tests.orchestrator.routes import api_routes, routes_of, scope_of, verbs

OPEN = {"/v1/session", "/v1/session/end", "/livez", "/readyz", "/metrics"}  # to whoever has no key
FOR_ANY_KEY = {"/v1/keys/current"}
PAGES_WITHOUT_A_KEY = {"/login", "/logout", "/static/{name}"}
OWN = {"Origin": "http://testserver"}


def made(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/keys", {"name": "made"} | changes)
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


def asked(api: Api, secret: str, method: str = "GET", path: str = "/v1/jobs", **arguments: Any) -> httpx2.Response:
    return api.client.request(method, path, headers={"Authorization": f"Bearer {secret}"}, **arguments)


def test_every_route_declares_the_scope_that_it_needs(app: FastAPI):
    undeclared = {route.path for route in api_routes(app) if scope_of(route) is None}
    assert undeclared == OPEN
    assert {route.path for route in api_routes(app) if scope_of(route) == "any"} == FOR_ANY_KEY
    assert len(api_routes(app)) > 30


def test_what_only_looks_needs_read_and_what_changes_needs_more(app: FastAPI):
    for route in api_routes(app):
        scope = scope_of(route)
        if scope in (None, "any", "manage", "admin"):
            continue
        assert (verbs(route) == ["GET"]) == (scope == "read"), (route.path, scope)


def test_every_page_asks_who_looks(app: FastAPI):
    pages = [route for route in routes_of(app) if route not in api_routes(app)]
    asking = {p.path for p in pages if any(d.call is site._visitor for d in p.dependant.dependencies)}
    assert {page.path for page in pages} - asking == PAGES_WITHOUT_A_KEY


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_route_refuses_a_key_without_its_scope_and_names_it(api: Api, app: FastAPI):
    secrets = {
        scope: made(api, scopes=sorted(EVERY - {scope, Scope.ADMIN}), name=scope.value)["key"] for scope in Scope
    }
    asked_for = 0
    for route in api_routes(app):
        scope = scope_of(route)
        if scope in (None, "any"):
            continue
        path = re.sub(r"{[^}]*}", "1", route.path)
        for verb in verbs(route):
            answer = asked(api, secrets[Scope(scope)], verb, path)
            told = problem(answer, 403)
            assert f"needs the scope {scope}," in told["detail"], (verb, path)
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]
            asked_for += 1
    assert asked_for > 30


def test_scopes_are_written_in_one_order_and_an_administrator_has_all():
    assert text_of([Scope.WRITE, Scope.READ]) == "read write"
    assert scopes_of("read write", admin=False) == {Scope.READ, Scope.WRITE}
    assert scopes_of("read unheard-of", admin=False) == {Scope.READ}
    assert scopes_of("", admin=True) == EVERY


def test_a_key_of_which_nothing_is_said_works_but_manages_nothing(api: Api):
    key = made(api)
    assert (key["scopes"], key["admin"], key["expires_at"]) == ([*USUAL], False, None)
    assert asked(api, key["key"], "POST", json=small_job()).status_code == 201
    problem(asked(api, key["key"], path="/v1/keys"), 403)
    assert made(api, scopes=["admin"])["scopes"] == [*Scope]


def test_a_key_knows_itself(api: Api):
    key = made(api, scopes=["stylize"])
    assert asked(api, key["key"], path="/v1/keys/current").json()["id"] == key["id"]


# --- expiry, use, rotation --------------------------------------------------------------------------------------------


def set_row(api: Api, key_id: str, **values: Any) -> None:
    with api.db.write() as tx:
        tx.execute(update(ApiKey).where(ApiKey.id == key_id).values(**values))
    api.client.app.state.services.access.forget()  # type: ignore[attr-defined]


def test_a_key_counts_until_it_expires(api: Api):
    key = made(api, expires_in_s=3600)
    assert key["expires_at"] is not None
    assert asked(api, key["key"]).status_code == 200
    set_row(api, key["id"], expires_at=db_now() - 1)
    problem(asked(api, key["key"]), 401)


def test_the_last_use_is_written_down_once_in_some_minutes(api: Api):
    key = made(api)

    def used_at() -> float | None:
        with api.db.read() as tx:
            return tx.scalars(select(ApiKey.last_used_at).where(ApiKey.id == key["id"])).one()

    assert used_at() is None
    asked(api, key["key"])
    first = used_at()
    assert first is not None
    api.client.app.state.services.access.forget()  # type: ignore[attr-defined]
    asked(api, key["key"])
    assert used_at() == first
    set_row(api, key["id"], last_used_at=first - 301)
    asked(api, key["key"])
    renewed = used_at()
    assert renewed is not None
    assert renewed >= first


def test_a_rotated_key_counts_with_both_secrets_for_a_while(api: Api):
    first = made(api)
    answer = api.post(f"/v1/keys/{first['id']}/rotate", {"overlap_s": 600})
    assert answer.headers["cache-control"] == "no-store"
    second = answer.json()
    assert second["id"] == first["id"]
    assert second["key"] not in (None, first["key"])
    assert second["previous_until"] is not None
    assert [asked(api, key["key"]).status_code for key in (first, second)] == [200, 200]
    set_row(api, first["id"], previous_until=db_now() - 1)
    assert [asked(api, key["key"]).status_code for key in (first, second)] == [401, 200]
    third = api.post(f"/v1/keys/{first['id']}/rotate").json()
    assert [asked(api, key["key"]).status_code for key in (first, second, third)] == [401, 200, 200]
    assert asked(api, api.post(f"/v1/keys/{first['id']}/rotate", {"overlap_s": 0}).json()["key"]).status_code == 200
    problem(asked(api, third["key"]), 401)


def test_a_repeated_rotation_rotates_once(api: Api):
    key = made(api)
    headers = {"Idempotency-Key": "r"}
    rotated = api.post(f"/v1/keys/{key['id']}/rotate", headers=headers).json()
    again = api.post(f"/v1/keys/{key['id']}/rotate", headers=headers).json()
    assert again["key"] is None
    assert asked(api, rotated["key"]).status_code == 200


def test_what_cannot_be_rotated_says_why(api: Api):
    own = api.get("/v1/keys/current").json()["id"]
    assert "admin_key" in problem(api.post(f"/v1/keys/{own}/rotate"), 409)["detail"]
    key = made(api)
    api.post(f"/v1/keys/{key['id']}/revoke")
    assert "revoked" in problem(api.post(f"/v1/keys/{key['id']}/rotate"), 409)["detail"]
    problem(api.post("/v1/keys/key_x/rotate"), 404)


# --- a tenant's manager -----------------------------------------------------------------------------------------------


def manager_of(api: Api, tenant: str) -> Api:
    secret = made(api, name="manager", tenant=tenant, scopes=["read", "manage"])["key"]
    return Api(api.client, secret, api.db, api.objects)


def test_a_manager_sees_and_changes_the_keys_of_its_tenant_alone(api: Api):
    foreign = made(api)
    manager = manager_of(api, "studio")
    mine = manager.post("/v1/keys", {"name": "mine", "scopes": ["read"]}).json()
    assert mine["tenant"] == "studio"
    assert [key["name"] for key in manager.get("/v1/keys").json()["data"]] == ["manager", "mine"]
    assert manager.post(f"/v1/keys/{mine['id']}/revoke").status_code == 200
    for verb in ("rotate", "revoke"):
        problem(manager.post(f"/v1/keys/{foreign['id']}/{verb}"), 404)
    problem(manager.post("/v1/keys", {"name": "theirs", "tenant": "default", "scopes": ["read"]}), 403)
    problem(manager.get("/v1/tenants"), 403)


def test_nobody_gives_or_takes_over_what_they_may_not_do(api: Api):
    manager = manager_of(api, "default")
    for wanted in ({"admin": True}, {"scopes": ["submit"]}, {"scopes": ["admin"]}, {}):
        problem(manager.post("/v1/keys", {"name": "more"} | wanted), 403)
    stronger = [made(api)["id"], made(api, admin=True)["id"], api.get("/v1/keys/current").json()["id"]]
    for key_id in stronger:
        for verb in ("rotate", "revoke"):
            problem(manager.post(f"/v1/keys/{key_id}/{verb}"), 403)
    assert asked(api, ADMIN_KEY).status_code == 200


# --- the web page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_web_page_shows_nothing_to_a_key_that_may_not_read(api: Api):
    job = api.job(name="hidden-job")
    secret = made(api, scopes=["stylize"])["key"]
    assert api.client.post("/login", data={"key": secret}, headers=OWN).status_code == 303
    for path in ("/", f"/jobs/{job['id']}", f"/jobs/{job['id']}/curves", "/models", "/datasets", "/methods"):
        answer = api.client.get(path)
        assert answer.status_code == 403, path
        assert "needs the scope read" in answer.text
        assert "hidden-job" not in answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_web_page_offers_no_button_that_the_key_may_not_press(api: Api):
    job = api.job()["id"]
    for scopes, offered in ((["read"], False), (["read", "submit"], True)):
        api.client.post("/login", data={"key": made(api, scopes=scopes)["key"]}, headers=OWN)
        page = api.client.get(f"/jobs/{job}").text
        assert (f"/v1/jobs/{job}/cancel" in page) is offered
