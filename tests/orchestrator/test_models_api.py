"""Models over REST, on both databases."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.images import png
from tests.orchestrator.conftest import Api, digest, pointers, problem


def test_a_model_shows_its_files_and_where_it_comes_from(api: Api):
    api.add_model("starry")
    model = api.get("/v1/models/starry").json()
    assert (model["name"], model["version"], model["aliases"]) == ("starry", 1, ["latest"])
    assert (model["method"], model["task"]) == ("metastyle", "train")
    (file,) = model["files"]
    assert (file["path"], file["size"], file["sha256"]) == ("model.safetensors", 7, digest("model"))
    assert httpx2.get(file["url"]).content == b"tensors"
    assert model["lineage"].keys() == {"job", "datasets", "base_model", "code"}
    assert api.get(f"/v1/jobs/{model['lineage']['job']}").status_code == 200


def test_versions_are_found_by_number_and_by_alias(api: Api):
    api.add_model("starry", versions=3)
    answer = api.request("PUT", "/v1/models/starry/aliases/best", json={"version": 2})
    assert answer.json() == {"name": "starry", "alias": "best", "version": 2}

    def version(which: str) -> tuple[int, list[str]]:
        model = api.get(f"/v1/models/starry/versions/{which}").json()
        return model["version"], model["aliases"]

    assert version("1") == (1, [])
    assert version("best") == version("2") == (2, ["best"])
    assert version("latest") == version("3") == (3, ["latest"])
    api.request("PUT", "/v1/models/starry/aliases/best", json={"version": 3})
    assert version("best") == (3, ["latest", "best"])
    versions = api.get("/v1/models/starry/versions", params={"limit": 2}).json()
    assert [model["version"] for model in versions["data"]] == [3, 2]
    rest = api.get("/v1/models/starry/versions", params={"cursor": versions["next_cursor"]}).json()
    assert [model["version"] for model in rest["data"]] == [1]
    for missing in ("4", "worst", "99999999999"):
        problem(api.get(f"/v1/models/starry/versions/{missing}"), 404)


def test_aliases_that_cannot_be_are_refused(api: Api):
    api.add_model("starry")

    def put(alias: str, version: Any, name: str = "starry") -> httpx2.Response:
        return api.request("PUT", f"/v1/models/{name}/aliases/{alias}", json={"version": version})

    assert pointers(put("latest", 1)) == ["/path/alias"]
    assert pointers(put("7", 1)) == ["/path/alias"]
    assert pointers(put("best", 2)) == ["/version"]
    assert pointers(put("best", "1")) == ["/version"]
    problem(put("best", 1, name="nowhere"), 404)


def test_the_list_has_the_newest_version_of_every_model(api: Api):
    api.add_model("b", versions=2)
    api.add_model("a")
    page = api.get("/v1/models", params={"limit": 1}).json()
    rest = api.get("/v1/models", params={"cursor": page["next_cursor"]}).json()
    own = [(m["name"], m["version"]) for m in page["data"] + rest["data"] if not m["builtin"]]
    assert own == [("a", 1), ("b", 2)]


def test_a_file_is_a_redirect_to_the_object_store(api: Api):
    api.add_model("starry")
    answer = api.get("/v1/models/starry/versions/latest/files/model.safetensors")
    assert answer.status_code == 307
    assert httpx2.get(answer.headers["location"]).content == b"tensors"
    for path in ("nothing", "../model.safetensors", "a/b"):
        problem(api.get(f"/v1/models/starry/versions/latest/files/{path}"), 404)


def test_another_tenants_model_is_not_there(api: Api, stranger: Api):
    api.add_model("starry")
    assert all(model["builtin"] for model in stranger.get("/v1/models").json()["data"])
    for path in ("", "/versions", "/versions/1", "/versions/1/files/model.safetensors"):
        problem(stranger.get(f"/v1/models/starry{path}"), 404)
    problem(stranger.request("PUT", "/v1/models/starry/aliases/best", json={"version": 1}), 404)
    problem(stranger.post("/v1/models/starry/versions/1/stylize", files={"content": png()}), 404)
