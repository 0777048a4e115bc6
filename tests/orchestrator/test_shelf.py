"""Built-in models in the service: everybody has them, nobody can change them, and nothing has to be set up for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest

from orchestrator import shelf
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from stylemodels.builtin import builtin_models
from tests.orchestrator.conftest import ADMIN_KEY, Api, pointers, problem, small_job
from tests.servers import S3Server
from tests.serving import serving
from tests.waiting import wait_until

NAME = "gatys"


def keys_of(objects: Objects) -> set[str]:
    return set(objects.keys("builtin/"))


def all_keys() -> set[str]:
    return {f"builtin/{model.sha256}/{file.path}" for model in builtin_models().values() for file in model.files}


def test_every_tenant_has_the_built_in_models(api: Api, stranger: Api):
    for caller in (api, stranger):
        listed = {model["name"]: model for model in caller.get("/v1/models").json()["data"]}
        assert {name for name, model in listed.items() if model["builtin"]} == set(builtin_models())
    model = stranger.get(f"/v1/models/{NAME}").json()
    assert (model["version"], model["aliases"], model["created_at"]) == (1, ["latest"], None)
    assert model["lineage"] == {"job": None, "datasets": {}, "base_model": None, "code": None}
    for version in ("1", "latest"):
        assert stranger.get(f"/v1/models/{NAME}/versions/{version}").json()["files"]
    assert [m["version"] for m in stranger.get(f"/v1/models/{NAME}/versions").json()["data"]] == [1]
    for version in ("2", "best"):
        problem(stranger.get(f"/v1/models/{NAME}/versions/{version}"), 404)


def test_their_files_come_from_the_object_store_with_the_digests_of_the_package(api: Api, settings: Settings):
    wait_until(lambda: keys_of(Objects(settings)) == all_keys(), 20, "the models are in the object store")
    model = api.get(f"/v1/models/{NAME}").json()
    assert {"config.json", "model.safetensors", "README.md"} <= {file["path"] for file in model["files"]}
    for file in model["files"]:
        content = httpx2.get(file["url"]).content
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
        redirect = api.get(f"/v1/models/{NAME}/versions/1/files/{file['path']}")
        assert httpx2.get(redirect.headers["location"]).content == content


def test_pages_of_the_list_hold_own_and_built_in_models_in_the_order_of_names(api: Api):
    api.add_model("a")
    api.add_model("zebra", versions=2)
    names, cursor = [], None
    while True:
        page = api.get("/v1/models", params={"limit": 1, "cursor": cursor} if cursor else {"limit": 1}).json()
        names += [model["name"] for model in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert names == sorted(["a", "zebra", *builtin_models()])


def test_a_model_of_ones_own_hides_the_built_in_one(api: Api, stranger: Api):
    api.add_model(NAME, versions=2)
    model = api.get(f"/v1/models/{NAME}").json()
    assert (model["version"], model["builtin"]) == (2, False)
    assert [m["builtin"] for m in api.get("/v1/models").json()["data"] if m["name"] == NAME] == [False]
    problem(api.get(f"/v1/models/{NAME}/versions/3"), 404)
    assert api.request("PUT", f"/v1/models/{NAME}/aliases/best", json={"version": 1}).status_code == 200
    assert stranger.get(f"/v1/models/{NAME}").json()["builtin"] is True


def test_a_built_in_model_takes_no_alias(api: Api):
    answer = api.request("PUT", f"/v1/models/{NAME}/aliases/best", json={"version": 1})
    assert "comes with the package" in problem(answer, 409)["detail"]


def test_a_built_in_model_of_another_task_is_no_base_model_and_is_told_so(api: Api):
    base = {"task": "adapt", "style_image": "starry.jpg", "base_model": NAME}
    answer = api.post("/v1/jobs", small_job(config={"steps": 3}, **base))
    assert pointers(answer) == ["/base_model"]
    assert f"{NAME}@1 is of" in problem(answer, 422)["detail"]


def test_what_learns_nothing_is_no_job(api: Api):
    answer = api.post("/v1/jobs", small_job(method="gatys", task="optimise", config={}))
    assert pointers(answer) == ["/task"]


def test_stocking_repairs_what_is_damaged_and_leaves_the_rest_alone(settings: Settings):
    objects = Objects(settings)
    shelf.stock(objects)
    assert keys_of(objects) == all_keys()
    damaged, missing = sorted(all_keys())[:2]
    objects.put(damaged, b"half a fi")
    objects.delete([missing])
    shelf.stock(objects)
    for model in builtin_models().values():
        for file in model.files:
            objects.get(f"builtin/{model.sha256}/{file.path}", sha256=file.sha256)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_several_servers_at_once_stock_the_same_objects(settings: Settings, described: Path):
    known = settings.model_copy(update={"cache_dir": described})
    with serving(known), serving(known), serving(known):
        wait_until(lambda: keys_of(Objects(settings)) == all_keys(), 30, "the models are in the object store")
    shelf.stock(Objects(settings))
    assert keys_of(Objects(settings)) == all_keys()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_object_store_that_comes_later_is_stocked_then(settings: Settings, s3_server: S3Server, described: Path):
    s3_server.kill()
    with serving(settings.model_copy(update={"cache_dir": described})) as url:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        assert httpx2.get(f"{url}/v1/models/{NAME}", headers=headers).json()["builtin"] is True
        s3_server.start()
        wait_until(lambda: keys_of(Objects(settings)) == all_keys(), 30, "the models are in the object store")
