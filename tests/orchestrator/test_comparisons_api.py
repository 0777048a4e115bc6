"""`/v1/comparisons`: what is pinned, what is refused, what is told while models draw."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from orchestrator.sessions import COOKIE
from orchestrator.store import claims, comparisons, queue
from orchestrator.store.queue import Batch, Ticket
from tests.orchestrator.conftest import Api, digest, pointers, problem

ADAIN = {"method": "adain", "task": "train", "config": {"encoder": "random"}}


def body(**changes: Any) -> dict[str, Any]:
    return {
        "models": [{"model": "one"}, {"model": "two@1", "note": "ten minutes", "controls": {"alpha": 0.5}}],
        "content": {"dataset": "photos", "paths": ["a.jpg"]},
        "style": {"dataset": "paintings@1", "paths": ["wave.png", "starry.jpg"]},
        "encoder": "random",
    } | changes


@pytest.fixture
def stocked(api: Api) -> Api:
    api.add_model("one", versions=2)
    api.add_model("two", **ADAIN)
    return api


def submitted(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/comparisons", body(**changes))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/comparisons/{made['id']}"
    return made


def begun(api: Api) -> Ticket:
    api.room(cpus=2)
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=60)
        assert claimed is not None
        queue.begin(tx, claimed.ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=2, lease_s=60)
    return claimed.ticket


def seen(api: Api, page: str, key: str | None = None) -> httpx2.Response:
    """What a browser gets."""
    return api.client.get(page, headers={"Cookie": f"{COOKIE}={key or api.key}"})


def test_what_takes_part_is_pinned_and_waits_for_a_worker(stocked: Api):
    made = submitted(stocked)
    assert (made["status"], made["progress"]["step"], made["progress"]["total_steps"]) == ("queued", 0, 2)
    assert [(m["name"], m["model"], m["method"], m["note"]) for m in made["models"]] == [
        ("one", "one@2", "metastyle/train", ""),
        ("two", "two@1", "adain/train", "ten minutes"),
    ]
    assert made["models"][1]["controls"] == {"alpha": 0.5}
    assert [picture["path"] for picture in made["style"]] == ["wave.png", "starry.jpg"]
    assert (made["sheet"], made["models"][0]["figures"], made["models"][0]["pictures"]) == (None, None, [])
    assert stocked.get("/v1/jobs").json()["data"] == [] or all(
        job["id"] != made["id"] for job in stocked.get("/v1/jobs").json()["data"]
    )
    problem(stocked.get(f"/v1/jobs/{made['id']}"), 404)


def test_pictures_and_figures_are_told_as_they_come(stocked: Api):
    made = submitted(stocked)
    ticket = begun(stocked)
    figures = {"content_loss": 0.5, "style_loss": 0.25, "seconds": 1.5, "mpx_per_s": 0.1, "parameters": 7.0}
    samples = [
        {"step": 1, "name": "1-2", "width": 8, "height": 6, "key": "k"},
        {"step": 2, "name": "sheet", "width": 80, "height": 60, "key": "s"},
    ]
    said = Batch(step=1, points={name: [(1, value)] for name, value in figures.items()}, samples=samples)
    with stocked.db.write() as tx:
        queue.record(tx, ticket, said, lease_s=60)
    told = stocked.get(f"/v1/comparisons/{made['id']}").json()
    one, two = told["models"]
    assert one["figures"] == figures | {"peak_mib": None}
    assert [(p["content"], p["style"], p["width"]) for p in one["pictures"]] == [(1, 2, 8)]
    assert (two["figures"], two["pictures"]) == (None, [])
    assert told["sheet"].startswith("http")
    assert told["status"] == "running"


def test_contents_and_styles_are_shown_as_they_were_compared_once_they_were(stocked: Api):
    made = submitted(stocked)

    def addresses() -> list[str]:
        told = stocked.get(f"/v1/comparisons/{made['id']}").json()
        shown = [seen(stocked, f"/comparisons/{made['id']}/given/style/{place}") for place in (1, 2)]
        return [picture["url"] for picture in told["style"]] + [answer.headers["location"] for answer in shown]

    assert ["/blobs/" in url for url in addresses()] == 4 * [True]
    ticket = begun(stocked)
    compared = [{"step": 0, "name": f"style-{n}", "width": 8, "height": 6, "key": f"compared-{n}"} for n in (1, 2)]
    with stocked.db.write() as tx:
        queue.record(tx, ticket, Batch(step=0, samples=compared), lease_s=60)
    assert [f"/compared-{n}?" in url for url, n in zip(addresses(), (1, 2, 1, 2), strict=True)] == 4 * [True]


def test_a_method_stands_for_its_newest_model(stocked: Api):
    stocked.add_model("newer", created_at=5.0, **ADAIN)
    made = submitted(stocked, models=[{"method": "adain", "name": "theirs"}, {"method": "gatys"}])
    assert [(m["name"], m["model"]) for m in made["models"]] == [("theirs", "newer@1"), ("gatys", "gatys@1")]
    refused = stocked.post("/v1/comparisons", body(models=[{"method": "sanet/train"}]))
    assert pointers(refused) == ["/models/0/method"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"models": []}, "/models"),
        ({"models": [{}]}, "/models/0"),
        ({"models": [{"model": "one", "method": "adain"}]}, "/models/0"),
        ({"models": [{"model": "none"}]}, "/models/0/model"),
        ({"models": [{"model": "one"}, {"model": "one@1"}]}, "/models/1/name"),
        ({"models": [{"model": "two", "controls": {"alpha": 2}}]}, "/models/0/controls/alpha"),
        ({"models": [{"model": "one", "controls": {"alpha": 1}}]}, "/models/0/controls/alpha"),
        ({"content": {"dataset": "nothing", "paths": ["a.jpg"]}}, "/content/dataset"),
        ({"content": {"dataset": "photos", "paths": ["b.jpg"]}}, "/content/paths/0"),
        ({"style": {"dataset": "paintings", "paths": ["wave.png", "wave.png"]}}, "/style/paths/1"),
        ({"encoder": "none"}, "/encoder"),
        ({"encoder": "vgg19"}, "/encoder"),
        ({"size": 8}, "/size"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_cannot_be_compared_is_refused_under_its_field(stocked: Api, changes: dict[str, Any], pointer: str):
    assert pointers(stocked.post("/v1/comparisons", body(**changes))) == [pointer]


def test_a_classifier_is_not_offered_and_refused_before_a_worker_takes_it(stocked: Api):
    stocked.add_model("scenes", method="srm", task="classify", config={})
    refused = stocked.post("/v1/comparisons", body(models=[{"model": "one"}, {"model": "scenes"}]))
    assert pointers(refused) == ["/models/1"]
    assert "srm/classify draws no pictures" in refused.text
    offered = seen(stocked, "/comparisons").text
    assert "<option>one</option>" in offered
    assert "<option>scenes</option>" not in offered
    own, others = (seen(stocked, f"/models/{name}/1").text for name in ("scenes", "one"))
    assert 'id="try"' in others
    assert 'id="try"' not in own


def test_no_more_pictures_are_asked_for_than_a_sheet_shows(stocked: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.api.comparisons.MOST_DRAWN", 3)
    refused = stocked.post("/v1/comparisons", body())
    assert pointers(refused) == ["/models"]
    assert "4 pictures of 2 pairs, at most 3 are drawn in all" in refused.text


def test_it_is_listed_cancelled_and_deleted(stocked: Api):
    first, second = submitted(stocked, name="first"), submitted(stocked, name="second")
    listed = stocked.get("/v1/comparisons?limit=1").json()
    assert [c["name"] for c in listed["data"]] == ["second"]
    rest = stocked.get(f"/v1/comparisons?limit=1&cursor={listed['next_cursor']}").json()
    assert [c["name"] for c in rest["data"]] == ["first"]
    problem(stocked.request("DELETE", f"/v1/comparisons/{first['id']}"), 409)
    assert stocked.post(f"/v1/comparisons/{first['id']}/cancel").json()["status"] == "cancelled"
    assert stocked.post(f"/v1/comparisons/{first['id']}/cancel").status_code == 200, "it is so already"
    assert stocked.request("DELETE", f"/v1/comparisons/{first['id']}").status_code == 204
    problem(stocked.get(f"/v1/comparisons/{first['id']}"), 404)
    assert stocked.get(f"/v1/comparisons/{second['id']}").status_code == 200


def test_what_takes_part_cannot_be_deleted_meanwhile(stocked: Api):
    made = submitted(stocked)
    detail = problem(stocked.request("DELETE", "/v1/models/two/versions/1"), 409)["detail"]
    assert made["id"] in detail
    assert made["id"] in problem(stocked.request("DELETE", "/v1/datasets/photos/versions/1"), 409)["detail"]
    assert stocked.request("DELETE", "/v1/models/one/versions/1").status_code == 204, "the second version draws"
    stocked.post(f"/v1/comparisons/{made['id']}/cancel")
    assert stocked.request("DELETE", "/v1/models/two/versions/1").status_code == 204


def test_the_page_offers_the_models_to_those_who_may_submit(stocked: Api):
    def page(key: str) -> str:
        answer = seen(stocked, "/comparisons", key)
        assert answer.status_code == 200, answer.text
        return answer.text

    reader = stocked.post("/v1/keys", {"name": "reader", "scopes": ["read"]}).json()["key"]
    assert {"one", "two", "gatys"} <= set(re.findall("<option>(.*?)</option>", page(stocked.key)))
    assert "<form id" not in page(reader)


def test_one_key_makes_one_comparison(stocked: Api):
    made = {
        stocked.post("/v1/comparisons", body(), headers={"Idempotency-Key": "the-same"}).json()["id"] for _ in range(2)
    }
    assert len(made) == 1


def test_another_tenant_sees_nothing_of_it(stocked: Api, stranger: Api):
    made = submitted(stocked)
    assert stranger.get("/v1/comparisons").json()["data"] == []
    for verb, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        problem(stranger.request(verb, f"/v1/comparisons/{made['id']}{path}"), 404)
    with stocked.db.read() as tx:
        assert comparisons.find(tx, stranger.tenant, made["id"]) is None


def test_digests_travel_with_the_paths(stocked: Api):
    made = submitted(stocked)
    with stocked.db.read() as tx:
        job = comparisons.find(tx, stocked.tenant, made["id"])
    assert job is not None
    assert job.config["content"] == [{"path": "a.jpg", "sha256": digest("a.jpg")}]
