"""Fan-outs over REST, on both databases: one request, one transaction, many jobs."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.schemas import NAME_PATTERN
from orchestrator.fanout import model_names
from tests.orchestrator.conftest import Api, pointers, problem, small_job
from tests.orchestrator.test_dependencies_api import draw, fail, shown, succeed

STYLES = ("monet/water lilies.jpg", "starry.jpg", "wave.png")
DATASETS = {"content": "photos", "style": "gallery"}
ADAPT: dict[str, Any] = {
    "method": "metastyle", "task": "adapt", "name": "adapted", "publish_as": "meta", "datasets": DATASETS,
    "config": {"steps": 5, "encoder": "random"}, "tags": {"show": "spring"},
}  # fmt: skip


def fanout(api: Api, **changes: Any) -> dict[str, Any]:
    body = {"train": small_job(publish_as="base"), "adapt": ADAPT, "style_images": ["*"]} | changes
    answer = api.post("/v1/fanouts", body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def jobs_of(api: Api, fanout_id: str) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = api.get("/v1/jobs", params={"fanout": fanout_id}).json()["data"]
    return found[::-1]


def test_one_request_trains_once_and_adapts_to_every_style_of_the_dataset(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    made = fanout(api, name="spring")
    train, *adapted = jobs_of(api, made["id"])
    assert (made["name"], made["jobs"], made["styles"], made["train"]) == ("spring", 4, 3, train["id"])
    assert (made["counts"], made["phase"]) == ({"blocked": 3, "queued": 1}, "pending")
    assert [job["style_image"] for job in adapted] == list(STYLES)
    assert [job["publish_as"] for job in adapted] == ["meta-monet-water-lilies", "meta-starry", "meta-wave"]
    assert {job["base_job"] for job in adapted} == {train["id"]}
    assert {job["config"]["width"] for job in adapted} == {4}
    assert all(job["tags"] == {"show": "spring"} and job["fanout"] == made["id"] for job in adapted)
    succeed(api, train["id"])
    draw(api.db)
    now = api.get(f"/v1/fanouts/{made['id']}").json()
    assert (now["counts"], now["phase"]) == ({"queued": 3, "succeeded": 1}, "active")
    assert {job["base_model"] for job in jobs_of(api, made["id"])[1:]} == {"base@1"}


def test_without_a_training_the_styles_start_from_a_model_that_there_is(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    api.add_model("meta")
    made = fanout(api, train=None, adapt=ADAPT | {"base_model": "meta"}, style_images=["wave.png", "starry.jpg"])
    adapted = jobs_of(api, made["id"])
    assert [(job["status"], job["base_model"]) for job in adapted] == [("queued", "meta@1")] * 2
    assert [job["style_image"] for job in adapted] == ["wave.png", "starry.jpg"]


def test_a_key_makes_a_fanout_once(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    body = {"adapt": ADAPT | {"base_model": "meta"}, "style_images": ["*"]}
    api.add_model("meta")
    first, second = (api.post("/v1/fanouts", body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]
    assert len(api.get("/v1/fanouts").json()["data"]) == 1


def test_cancel_ends_all_that_goes_on_and_nothing_else(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    made = fanout(api)
    alone = api.job()["id"]
    cancelled = api.post(f"/v1/fanouts/{made['id']}/cancel").json()
    assert (cancelled["counts"], cancelled["phase"]) == ({"cancelled": 4}, "terminal")
    assert cancelled["cancelled_at"] is not None
    draw(api.db)
    assert api.post(f"/v1/fanouts/{made['id']}/cancel").json() == cancelled
    assert shown(api, alone)["status"] == "queued"


def test_a_job_that_is_done_again_counts_once(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    api.add_model("meta")
    made = fanout(api, train=None, adapt=ADAPT | {"base_model": "meta"})
    first = jobs_of(api, made["id"])[0]["id"]
    fail(api, first)
    assert api.get(f"/v1/fanouts/{made['id']}").json()["counts"] == {"failed": 1, "queued": 2}
    api.post(f"/v1/jobs/{first}/retry")
    assert api.get(f"/v1/fanouts/{made['id']}").json()["counts"] == {"queued": 3}


def test_what_cannot_be_used_is_named_and_nothing_is_made(api: Api):
    api.add_dataset("gallery", paths=STYLES)
    api.add_model("meta")
    based = ADAPT | {"base_model": "meta"}
    unusable: list[tuple[dict[str, Any], str]] = [
        ({"adapt": based, "style_images": ["wave.png", "none.png"]}, "/style_images/1"),
        ({"adapt": based, "style_images": []}, "/style_images"),
        ({"adapt": based | {"config": {"lr": "high", "encoder": "random"}}}, "/adapt/config/lr"),
        ({"adapt": based | {"style_image": "wave.png"}}, "/adapt/style_image"),
        ({"adapt": based | {"datasets": {"content": "photos"}}}, "/adapt/datasets/style"),
        ({"adapt": small_job()}, "/adapt/task"),
        ({"adapt": based, "train": small_job()}, "/adapt/base_model"),
        ({"adapt": ADAPT, "train": small_job(config={"steps": 0, "encoder": "random"})}, "/train/config/steps"),
        ({"adapt": ADAPT, "train": small_job(method="johnson")}, "/train"),
    ]
    for body, pointer in unusable:
        told = pointers(api.post("/v1/fanouts", {"style_images": ["*"]} | body))
        assert told[0].startswith(pointer), (body, told)
    assert api.get("/v1/fanouts").json()["data"] == []
    assert api.get("/v1/jobs", params={"status": "queued"}).json()["data"] == []


def test_fanouts_are_a_tenants_own(api: Api, stranger: Api):
    api.add_dataset("gallery", paths=STYLES)
    made = fanout(api)
    problem(stranger.get(f"/v1/fanouts/{made['id']}"), 404)
    problem(stranger.post(f"/v1/fanouts/{made['id']}/cancel"), 404)
    assert stranger.get("/v1/fanouts").json()["data"] == []
    assert stranger.get("/v1/jobs", params={"fanout": made["id"]}).json()["data"] == []


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=9))
def test_model_names_are_names_and_all_different(prefix: str, paths: list[str]):
    names = model_names(prefix, paths)
    assert len(set(names)) == len(names) == len(paths)
    assert all(re.fullmatch(NAME_PATTERN, name) for name in names)
