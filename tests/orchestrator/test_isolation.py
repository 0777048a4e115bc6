"""Another tenant's things are not there: asked from the outside, of every route, with ids that exist.

A route with a parameter that this file does not know fails until somebody has said here what is another tenant's there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import redis
from fastapi import FastAPI

from orchestrator.objects import attempt_prefix, blob_key, upload_key
from orchestrator.settings import Settings
from orchestrator.states import ErrorType
from orchestrator.store import claims, queue
from orchestrator.store.queue import Batch
from orchestrator.store.tables import Blob
from tests.images import jpeg
from tests.orchestrator.conftest import Api, digest, problem, small_job
from tests.orchestrator.routes import api_routes, routes_of, scope_of, verbs

ALL_BUT_ADMIN = ["read", "submit", "write", "stylize", "manage"]
MARKS = ("hers-", "hers_")  # in every name of the owner's things, so nobody else's answer may hold them
OWN_NAMESPACE = {  # by name, and the name is the caller's own: it makes something there
    ("POST", "/v1/datasets/{name}/uploads"): {"files": [{"path": "a.jpg", "size": 3, "sha256": digest("hers")}]},
    ("POST", "/v1/datasets/{name}/versions"): {"kind": "images", "files": [{"path": "a.jpg", "sha256": digest("a")}]},
}
EVERYBODYS = {"/v1/methods/{method}"}
BODIES: dict[str, Any] = {"/v1/models/{name}/aliases/{alias}": {"version": 1}}

pytestmark = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


class Owner:
    """Has one of everything."""

    def __init__(self, api: Api) -> None:
        self.api = api
        api.add_dataset("hers-photos", paths=("hers-a.jpg",))
        api.add_model("hers-model")
        assert api.request("PUT", "/v1/models/hers-model/aliases/hers-best", json={"version": 1}).status_code == 200
        assert api.post("/v1/webhooks/secret").status_code == 201
        job = small_job(name="hers-job", publish_as="hers-job", tags={"hers-tag": "hers-value"})
        webhook = {"url": "https://hers-hook.example/", "events": ["failed"]}
        self.job = self._made("/v1/jobs", job | {"webhook": webhook})
        self._run()
        adapt = {
            "method": "metastyle", "task": "adapt", "name": "hers-adapted", "publish_as": "hers-adapted",
            "datasets": {"content": "photos", "style": "paintings"}, "config": {"steps": 5, "encoder": "random"},
        }  # fmt: skip
        fanout = {"name": "hers-fanout", "train": job | {"name": "hers-base"}, "adapt": adapt, "style_images": ["*"]}
        space = {"lr": {"low": 1e-4, "high": 1.0, "log": True}}
        sweep = {"name": "hers-sweep", "job": job, "strategy": "random", "trials": 2, "metric": "loss", "space": space}
        self.fanout, self.sweep = self._made("/v1/fanouts", fanout), self._made("/v1/sweeps", sweep)
        pictures = {"content": {"dataset": "photos", "paths": ["a.jpg"]}}
        pictures["style"] = {"dataset": "paintings", "paths": ["wave.png"]}
        compared = {"name": "hers-comparison", "models": [{"model": "hers-model"}], "encoder": "random", **pictures}
        self.comparison = self._made("/v1/comparisons", compared)
        self.key = self._made("/v1/keys", {"name": "hers-key"})
        self.delivery = api.get("/v1/webhooks/deliveries").json()["data"][0]["id"]
        with api.db.write() as tx:
            tx.add(Blob(tenant_id=api.tenant, sha256=digest("hers"), size=3, created_at=0.0))
        api.objects.put(blob_key(api.tenant, digest("hers")), b"jpg")

    def _made(self, path: str, body: Any) -> str:
        answer = self.api.post(path, body)
        assert answer.status_code == 201, answer.text
        made: str = answer.json()["id"]
        return made

    def _run(self) -> None:
        """The job has begun, said something of everything and failed."""
        self.api.room(cpus=4)
        with self.api.db.write() as tx:
            claimed = claims.claim_next(tx, owner="d", lease_s=60)
            assert claimed is not None
            ticket = claimed.ticket
            queue.begin(tx, ticket, actor="a", node="hers-node", pid=1, resumed_from=0, total_steps=20, lease_s=60)
            prefix = attempt_prefix(self.api.tenant, ticket.job_id, 1)
            self.api.objects.put(f"{prefix}/hers-file", b"hers")
            said = Batch(
                step=1,
                points={"hers_loss": [(1, 1.0)]},
                log=[{"at": 1.0, "level": "info", "text": "hers-line"}],
                checkpoints=[{"step": 1, "prefix": prefix, "manifest_sha256": "m", "files": [], "bytes": 2}],
                samples=[{"step": 1, "name": "hers-grid", "width": 8, "height": 8, "key": f"{prefix}/hers-file"}],
            )
            queue.record(tx, ticket, said, lease_s=60)
            queue.fail(tx, ticket, ErrorType.DIVERGED, "hers-error")

    def filled(self, path: str) -> str:
        """A route's template with this owner's names and ids."""
        things = {
            ("/v1/jobs", "id"): self.job,
            ("/v1/fanouts", "id"): self.fanout,
            ("/v1/sweeps", "id"): self.sweep,
            ("/v1/comparisons", "id"): self.comparison,
            ("/v1/keys", "id"): self.key,
            ("/v1/webhooks", "id"): self.delivery,
            ("/v1/datasets", "name"): "hers-photos",
            ("/v1/datasets", "version"): "1",
            ("/v1/models", "name"): "hers-model",
            ("/v1/models", "version"): "1",
            ("/v1/models", "alias"): "hers-best",
            ("/v1/models", "path"): "model.safetensors",
            ("/jobs", "job_id"): self.job,
            ("/jobs", "step"): "1",
            ("/jobs", "name"): "hers-grid",
            ("/models", "name"): "hers-model",
            ("/models", "version"): "1",
            ("/models", "path"): "model.safetensors",
            ("/fanouts", "fanout_id"): self.fanout,
            ("/sweeps", "sweep_id"): self.sweep,
            ("/comparisons", "comparison_id"): self.comparison,
            ("/comparisons", "role"): "content",
            ("/comparisons", "place"): "1",
            ("/comparisons", "step"): "1",
            ("/comparisons", "name"): "1-1",
        }
        first, second = [*path.split("/")[1:3], ""][:2]
        noun = f"/{first}/{second}" if first == "v1" else f"/{first}"
        return re.sub(r"{(\w+)(?::path)?}", lambda found: things[noun, found[1]], path)


@pytest.fixture
def owner(api: Api) -> Owner:
    return Owner(api)


@pytest.fixture
def foreign(api: Api) -> Api:
    """A key of another tenant with every scope but `admin`."""
    made = api.post("/v1/keys", {"name": "foreign", "tenant": "other", "admin": False, "scopes": ALL_BUT_ADMIN})
    assert made.status_code == 201, made.text
    return Api(api.client, made.json()["key"], api.db, api.objects)


def asked(foreign: Api, verb: str, template: str, path: str) -> httpx2.Response:
    if template.endswith("/stylize"):
        return foreign.request(verb, path, files={"content": ("a.jpg", jpeg(8, 8, seed=0))})
    return foreign.request(verb, path, json=BODIES.get(template, None if verb in ("GET", "DELETE") else {}))


def test_by_every_route_another_tenants_thing_is_not_there(owner: Owner, foreign: Api, app: FastAPI):
    asked_for = set()
    for route in api_routes(app):
        if "{" not in route.path or scope_of(route) == "admin" or route.path in EVERYBODYS:
            continue
        for verb in verbs(route):
            if (verb, route.path) in OWN_NAMESPACE:
                continue
            path = owner.filled(route.path)
            problem(asked(foreign, verb, route.path, path), 404)
            own = owner.api.get(path) if verb == "GET" else None
            assert own is None or own.status_code in (200, 307), f"{path}: its owner finds it"
            asked_for.add((verb, route.path))
    assert len(asked_for) > 25


def test_no_list_and_no_figure_tells_of_another_tenants_things(owner: Owner, foreign: Api, app: FastAPI):
    marks = [
        *MARKS,
        owner.api.tenant,
        owner.job,
        owner.fanout,
        owner.sweep,
        owner.comparison,
        owner.key,
        owner.delivery,
    ]
    lists = [route.path for route in api_routes(app) if verbs(route) == ["GET"] and "{" not in route.path]
    lists = [path for path in lists if path not in ("/metrics", "/livez", "/readyz")]
    for path in lists:
        told = foreign.get(path).text
        assert not [mark for mark in marks if mark in told], path
    for path in ("/v1/jobs", "/v1/datasets", "/v1/fanouts", "/v1/sweeps", "/v1/comparisons", "/v1/webhooks/deliveries"):
        assert foreign.get(path).json()["data"] == [], path
        assert owner.api.get(path).json()["data"] != [], path
    filters = {"tag": "hers-tag:hers-value", "q": "hers", "fanout": owner.fanout, "sweep": owner.sweep}
    for name, value in filters.items():
        assert foreign.get("/v1/jobs", params={name: value}).json()["data"] == [], name
    assert foreign.get("/v1/usage").json()["bytes"]["total"] == 0
    for public in ("/metrics", "/livez", "/readyz", "/openapi.json"):
        told = foreign.client.get(public).text
        assert not [mark for mark in marks if mark in told], public


def test_a_cursor_of_another_tenants_list_opens_nothing(owner: Owner, foreign: Api):
    for path in ("/v1/jobs", "/v1/keys", "/v1/audit", "/v1/webhooks/deliveries"):
        page = owner.api.get(path, params={"limit": 1}).json()
        if page["next_cursor"] is not None:
            told = foreign.get(path, params={"cursor": page["next_cursor"]}).text
            assert "hers-" not in told
            assert owner.api.tenant not in told


def test_what_a_body_names_is_looked_for_among_the_callers_own(owner: Owner, foreign: Api):
    foreign.add_dataset("photos")
    foreign.add_dataset("paintings", paths=("starry.jpg",))
    named = [
        {"datasets": {"content": "hers-photos", "style": "paintings"}},
        {"task": "adapt", "config": {"steps": 5}, "style_image": "starry.jpg", "base_model": "hers-model"},
        {"task": "adapt", "config": {"steps": 5}, "style_image": "starry.jpg", "base_job": owner.job},
        {"depends_on": [owner.job]},
    ]
    for changes in named:
        told = problem(foreign.post("/v1/jobs", small_job(**changes)), 422)
        assert "there is no" in told["detail"], changes
    several = {"action": "cancel", "filter": {"ids": [owner.job]}}
    (item,) = foreign.post("/v1/jobs:batch", several).json()["data"]
    assert (item["outcome"], item["name"]) == ("not_found", None)


def test_the_same_names_in_two_tenants_are_two_things(owner: Owner, foreign: Api):
    body = {"kind": "images", "files": [{"path": "a.jpg", "sha256": digest("a")}]}
    assert foreign.post("/v1/datasets/hers-photos/versions", body).json()["version"] == 1
    assert owner.api.get("/v1/datasets/hers-photos").json()["status"] == "ready"
    assert foreign.get("/v1/datasets/hers-photos").json()["status"] == "ingesting"


def test_pictures_of_another_tenant_are_asked_for_again(owner: Owner, foreign: Api):
    body = OWN_NAMESPACE["POST", "/v1/datasets/{name}/uploads"]
    assert owner.api.post("/v1/datasets/x/uploads", body).json()["files"][0]["exists"] is True
    (wanted,) = foreign.post("/v1/datasets/x/uploads", body).json()["files"]
    assert f"/uploads/{foreign.tenant}/" in wanted["url"]


def test_an_idempotency_key_belongs_to_its_tenant(owner: Owner, foreign: Api):
    foreign.add_dataset("photos")
    foreign.add_dataset("paintings")
    headers = {"Idempotency-Key": "the-same"}
    hers = owner.api.post("/v1/jobs", small_job(), headers=headers).json()["id"]
    theirs = foreign.post("/v1/jobs", small_job(), headers=headers).json()["id"]
    assert hers != theirs
    assert [job["id"] for job in foreign.get("/v1/jobs").json()["data"]] == [theirs]


def test_no_page_shows_another_tenants_thing(owner: Owner, foreign: Api, app: FastAPI):
    foreign.client.post("/login", data={"key": foreign.key}, headers={"Origin": "http://testserver"})
    pages = [route for route in routes_of(app) if route not in api_routes(app)]
    for page in pages:
        if page.path in ("/login", "/logout", "/static/{name}"):
            continue
        answer = foreign.client.get(owner.filled(page.path))
        if "{" in page.path:
            assert answer.status_code == 404, page.path
        else:
            assert answer.status_code == 200, page.path
            assert not [mark for mark in (*MARKS, owner.job, owner.api.tenant) if mark in answer.text], page.path


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        yield client


def test_a_stream_of_another_tenants_job_is_not_opened(owner: Owner, foreign: Api, bus: redis.Redis):
    for headers in ({"Accept": "text/event-stream"}, {"Accept": "text/event-stream", "Last-Event-ID": "1"}):
        problem(foreign.get(f"/v1/jobs/{owner.job}/events", headers=headers), 404)


def test_a_stylisation_with_another_tenants_model_reaches_no_worker(owner: Owner, foreign: Api, bus: redis.Redis):
    path = "/v1/models/hers-model/versions/1/stylize"
    problem(foreign.request("POST", path, files={"content": ("a.jpg", jpeg(8, 8, seed=0))}), 404)
    assert list(bus.scan_iter("stylefoundry:stylize*")) == []


def test_what_stands_in_redis_is_named_by_ids_that_the_service_draws(owner: Owner, foreign: Api, bus: redis.Redis):
    """No key holds what a caller chose, so none can be made to meet another tenant's."""
    foreign.get("/v1/jobs", headers={"X-Key": "stylefoundry:rate:x"})
    names = [key.decode() for key in bus.scan_iter("*")]
    assert names
    known = re.compile(r"stylefoundry:(rate:key_\w{26}:\w+|counts|idle:.*|uploads:job_\w{26})")
    assert all(known.fullmatch(name) for name in names), names


# --- the object store -------------------------------------------------------------------------------------------------


def test_a_signed_url_opens_its_own_object_alone(owner: Owner, foreign: Api):
    hers = blob_key(owner.api.tenant, digest("hers"))
    offered = {"files": [{"path": "a.jpg", "size": 3, "sha256": digest("theirs")}]}
    (wanted,) = foreign.post("/v1/datasets/x/uploads", offered).json()["files"]
    with httpx2.Client() as http:
        assert http.put(wanted["url"], content=b"jpg").status_code == 200
        elsewhere = wanted["url"].replace(upload_key(foreign.tenant, digest("theirs")), hers)
        assert elsewhere != wanted["url"]
        assert http.put(elsewhere, content=b"bad").status_code == 403
        assert http.get(elsewhere).status_code == 403
        assert http.get(wanted["url"]).status_code == 403, "signed for PUT"
        own = owner.api.get(f"/v1/jobs/{owner.job}/samples").json()["data"][0]["url"]
        assert http.get(own).content == b"hers"
        assert http.get(own.partition("?")[0]).status_code in (400, 403), "without a signature"
        assert http.delete(own).status_code == 403, "signed for GET"
    assert owner.api.objects.get(hers) == b"jpg"
