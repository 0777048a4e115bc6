"""Models over REST, on both databases, and pictures drawn by warm workers."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from fastapi import FastAPI
from PIL import Image

from orchestrator.api.services import MOST_DRAWING, Services
from orchestrator.bus import Bus
from orchestrator.settings import Settings
from tests.orchestrator.conftest import Api, digest, pointers, problem
from tests.servers import ValkeyServer


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
    assert [(m["name"], m["version"]) for m in page["data"] + rest["data"]] == [("a", 1), ("b", 2)]


def test_a_file_is_a_redirect_to_the_object_store(api: Api):
    api.add_model("starry")
    answer = api.get("/v1/models/starry/versions/latest/files/model.safetensors")
    assert answer.status_code == 307
    assert httpx2.get(answer.headers["location"]).content == b"tensors"
    for path in ("nothing", "../model.safetensors", "a/b"):
        problem(api.get(f"/v1/models/starry/versions/latest/files/{path}"), 404)


def test_another_tenants_model_is_not_there(api: Api, stranger: Api):
    api.add_model("starry")
    assert stranger.get("/v1/models").json()["data"] == []
    for path in ("", "/versions", "/versions/1", "/versions/1/files/model.safetensors"):
        problem(stranger.get(f"/v1/models/starry{path}"), 404)
    problem(stranger.request("PUT", "/v1/models/starry/aliases/best", json={"version": 1}), 404)
    problem(stranger.post("/v1/models/starry/versions/1/stylize", files={"content": picture()}), 404)


# --- stylisation ------------------------------------------------------------------------------------------------------

ADAPTED = {"task": "adapt", "config": {"encoder": "random", "width": 4, "res_blocks": 1}}


def picture(width: int = 8, height: int = 6, format: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(data, format)
    return data.getvalue()


@contextmanager
def warm_worker(
    settings: Settings, answer: Callable[[Bus, dict[str, Any]], tuple[dict[str, Any], bytes]]
) -> Iterator[list[dict[str, Any]]]:
    """The other end of the bus: says that it is idle, takes what comes, answers with `answer`."""
    bus = Bus(settings.redis_url.get_secret_value())
    over, taken = threading.Event(), []

    def work() -> None:
        while not over.is_set():
            bus.say_idle("warm-1")
            request = bus.next_request(timeout_s=0.2)
            if request is not None:
                taken.append(request)
                bus.answer(request["id"], *answer(bus, request), expire_s=10)

    bus.say_idle("warm-1")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join(10)


def stylize(api: Api, params: Any = None, **arguments: Any) -> httpx2.Response:
    given: dict[str, Any] = {"files": {"content": ("c.png", picture())}} | arguments
    if params is not None:
        given["data"] = {"params": params if isinstance(params, str) else json.dumps(params)}
    return api.request("POST", "/v1/models/starry/versions/latest/stylize", **given)


def test_a_warm_worker_gets_the_picture_and_its_answer_goes_back(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)

    def answer(bus: Bus, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        return {"status": 200, "content_type": "image/jpeg"}, b"drawn from " + (
            bus.blob(request["id"], "content") or b""
        )

    with warm_worker(settings, answer) as taken:
        drawn = stylize(api, {"strength": 0.5, "format": "jpeg"})
    assert drawn.status_code == 200, drawn.text
    assert drawn.headers["content-type"] == "image/jpeg"
    assert drawn.content == b"drawn from " + picture()
    (request,) = taken
    assert (request["params"], request["format"], request["styles"]) == ({"strength": 0.5}, "jpeg", 0)
    assert request["model"]["files"][0]["path"] == "model.safetensors"


def test_what_a_worker_refuses_is_told_under_its_field(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)
    heads = iter([(422, "content: is cut off"), (422, "too small"), (503, "busy"), (500, "it broke")])

    def answer(bus: Bus, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        status, detail = next(heads)
        return {"status": status, "detail": detail}, b""

    with warm_worker(settings, answer):
        assert pointers(stylize(api)) == ["/content"]
        assert problem(stylize(api), 422)["detail"] == "too small"
        assert "retry-after" in stylize(api).headers
        problem(stylize(api), 500)


def test_what_no_worker_could_draw_never_reaches_one(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)
    wide = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(wide, "PNG")
    with warm_worker(settings, lambda bus, request: ({"status": 500}, b"")) as taken:
        assert pointers(stylize(api, files={"content": b"some text"})) == ["/content"]
        assert pointers(stylize(api, files={"content": b""})) == ["/content"]
        assert pointers(stylize(api, files={"content": wide.getvalue()})) == ["/content"]
        assert pointers(stylize(api, files={"content": picture(format="GIF")})) == ["/content"]
        assert pointers(stylize(api, files={"style": picture()})) == ["/content"]
        assert pointers(stylize(api, files=[("content", picture()), ("style", picture())])) == ["/style"]
        assert pointers(stylize(api, "{")) == pointers(stylize(api, "[]")) == ["/params"]
        assert pointers(stylize(api, {"strength": 2})) == ["/params/strength"]
        assert pointers(stylize(api, {"nonsense": 2})) == ["/params/nonsense"]
        assert pointers(stylize(api, {"format": "bmp"})) == ["/params/format"]
    assert taken == []


def test_waiting_for_pictures_leaves_threads_for_everything_else(api: Api, app: FastAPI):
    api.add_model("starry", **ADAPTED)
    services: Services = app.state.services
    taken = [services.drawing.acquire(timeout=0) for _ in range(MOST_DRAWING)]
    assert all(taken)
    assert "too many" in problem(stylize(api), 503)["detail"]
    services.drawing.release()
    assert "free" in problem(stylize(api), 503)["detail"]


def test_without_a_free_worker_or_redis_the_caller_is_told_to_come_back(api: Api, valkey_server: ValkeyServer):
    api.add_model("starry", **ADAPTED)
    answer = stylize(api)
    assert "worker" in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    valkey_server.kill()
    answer = stylize(api)
    assert "Redis" in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0
