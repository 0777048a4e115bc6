"""Pictures over REST, on both databases: what is refused before a worker hears of it, and what comes back from one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from PIL import Image

from orchestrator.api.services import MOST_DRAWING, Services
from orchestrator.bus import Bus
from orchestrator.settings import Settings
from tests import images
from tests.orchestrator.conftest import Api, pointers, problem
from tests.orchestrator.hands import Answer, drawn, warm_worker
from tests.servers import ValkeyServer
from tests.serving import ADMIN_KEY, serving
from tests.waiting import wait_until

ADAPTED = {"task": "adapt", "config": {"encoder": "random", "width": 4, "res_blocks": 1}}  # the model is the style
ADAIN = {"method": "adain", "task": "train", "config": {"encoder": "random"}}  # 1 to 8 styles, masks
GATYS = {"method": "gatys", "task": "optimise", "config": {"encoder": "random"}}  # goes on from another picture
CLASSIFIER = {"method": "srm", "task": "classify", "config": {}}
LINEAR = {"method": "linear", "task": "train", "config": {"encoder": "random"}}  # label maps too


def picture(width: int = 8, height: int = 6, format: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(data, format)
    return data.getvalue()


def stylize(api: Api, params: Any = None, **arguments: Any) -> httpx2.Response:
    given: dict[str, Any] = {"files": {"content": ("c.png", picture())}} | arguments
    if params is not None:
        given["data"] = {"params": params if isinstance(params, str) else json.dumps(params)}
    return api.request("POST", "/v1/models/starry/versions/latest/stylize", **given)


def form(styles: int = 1, masks: int = 0, **others: bytes) -> list[tuple[str, bytes]]:
    """A content with so many styles and masks."""
    parts = [("content", picture())] + [("style", picture(8, 4))] * styles + [("mask", picture())] * masks
    return parts + list(others.items())


# --- the way to a worker and back -------------------------------------------------------------------------------------


def test_a_warm_worker_gets_the_picture_and_its_answer_goes_back(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)

    def answer(bus: Bus, request: dict[str, Any]) -> Answer:
        return {"status": 200, "content_type": "image/jpeg"}, b"drawn from " + (
            bus.blob(request["id"], "content") or b""
        )

    with warm_worker(settings, answer) as taken:
        answered = stylize(api, {"strength": 0.5, "format": "jpeg"})
    assert answered.status_code == 200, answered.text
    assert answered.headers["content-type"] == "image/jpeg"
    assert answered.content == b"drawn from " + picture()
    (request,) = taken
    assert (request["params"], request["format"], request["styles"]) == ({"strength": 0.5}, "jpeg", 0)
    assert request["model"]["files"][0]["path"] == "model.safetensors"
    assert request["timeout_s"] == settings.stylize_timeout_s


def test_styles_masks_and_weights_travel_in_their_order(api: Api, settings: Settings):
    api.add_model("starry", **ADAIN)
    blobs: dict[str, bytes | None] = {}
    names = ("style-0", "style-1", "mask-0", "mask-1")

    def answer(bus: Bus, request: dict[str, Any]) -> Answer:
        blobs.update({name: bus.blob(request["id"], name) for name in names})
        return drawn(bus, request)

    sent = {name: images.png(8, 6, seed=n) for n, name in enumerate(names)}
    files = [("content", picture()), *((name.split("-")[0], data) for name, data in sent.items())]
    with warm_worker(settings, answer) as taken:
        assert stylize(api, {"weights": [1, 0.25], "size": 64, "format": "png16"}, files=files).content == b"drawn"
    assert blobs == sent
    (request,) = taken
    assert (request["weights"], request["masks"], request["styles"]) == ([1.0, 0.25], True, 2)
    assert (request["params"], request["format"]) == ({"size": 64}, "png16")


def test_label_maps_travel_as_a_pair(api: Api, settings: Settings):
    api.add_model("starry", **LINEAR)

    def answer(bus: Bus, request: dict[str, Any]) -> Answer:
        parts = [bus.blob(request["id"], name) or b"" for name in ("content_labels-0", "style_labels-0")]
        return {"status": 200, "content_type": "image/png"}, b"|".join(parts)

    labels = {"content_labels": images.palette_png(8, 6), "style_labels": images.palette_png(8, 4)}
    with warm_worker(settings, answer) as taken:
        answered = stylize(api, files=form(**labels))
    assert answered.content == b"|".join(labels.values())
    assert taken[0]["regions"] == [1, 1]


def test_maps_and_a_picture_to_start_from_are_asked_for(api: Api, settings: Settings):
    api.add_model("starry", **GATYS)

    def answer(bus: Bus, request: dict[str, Any]) -> Answer:
        return {"status": 200, "content_type": "application/zip"}, bus.blob(request["id"], "init_image") or b""

    start = picture(8, 6)
    with warm_worker(settings, answer) as taken:
        answered = stylize(api, {"maps": True}, files=form(styles=1, init_image=start))
    assert (answered.headers["content-type"], answered.content) == ("application/zip", start)
    assert (taken[0]["maps"], taken[0]["init_image"], taken[0]["params"]) == (True, True, {})


def test_what_a_worker_refuses_is_told_under_its_field(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)
    heads = iter(
        [
            {"status": 422, "pointer": "/content", "detail": "is cut off"},
            {"status": 422, "pointer": None, "detail": "too small"},
            {"status": 503, "detail": "busy"},
            {"status": 500, "detail": "it broke"},
        ]
    )
    with warm_worker(settings, lambda bus, request: (next(heads), b"")):
        assert pointers(stylize(api)) == ["/content"]
        assert problem(stylize(api), 422)["detail"] == "too small"
        assert "retry-after" in stylize(api).headers
        problem(stylize(api), 500)


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


def test_a_worker_that_never_answers_is_given_up_and_told_so(api: Api, app: FastAPI, settings: Settings):
    api.add_model("starry", **ADAPTED)
    services: Services = app.state.services
    hasty = settings.model_copy(update={"stylize_timeout_s": 0.1})
    app.state.services = Services(**(vars(services) | {"settings": hasty}))
    with warm_worker(settings, lambda bus, request: None) as taken:
        answer = stylize(api)
    assert "no worker answered" in problem(answer, 503)["detail"]
    assert not services.bus.is_awaited(taken[0]["id"]), "the worker is told to stop"


def test_a_caller_that_hangs_up_is_no_longer_waited_for(api: Api, settings: Settings, described: Path):
    api.add_model("starry", **ADAPTED)
    bus = Bus(settings.redis_url.get_secret_value())
    known = settings.model_copy(update={"cache_dir": described})
    with serving(known) as url, warm_worker(settings, lambda bus, request: None) as taken:
        path = f"{url}/v1/models/starry/versions/1/stylize"
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(path, files={"content": picture()}, headers=headers, timeout=httpx2.Timeout(5, read=0.5))
        wait_until(lambda: taken and not bus.is_awaited(taken[0]["id"]), 10, "the request is withdrawn")


# --- what never reaches a worker --------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_read_never_reach_a_worker(api: Api, settings: Settings):
    api.add_model("starry", **ADAPTED)
    wide = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(wide, "PNG")
    with warm_worker(settings, drawn) as taken:
        for content in (b"some text", b"", wide.getvalue(), picture(format="GIF")):
            assert pointers(stylize(api, files={"content": content})) == ["/content"]
        assert pointers(stylize(api, files={"style": picture()})) == ["/content"]
    assert taken == []


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ("{", "/params"),
        ("[]", "/params"),
        ({"strength": 2}, "/params/strength"),
        ({"nonsense": 2}, "/params/nonsense"),
        ({"preserve_color": "red"}, "/params/preserve_color"),
        ({"passes": 0}, "/params/passes"),
        ({"format": "bmp"}, "/params/format"),
        ({"format": ["png"]}, "/params/format"),
        ({"size": 16_384}, "/params/size"),
        ({"style_size": 8192}, "/params/style_size"),
        ({"weights": 1}, "/params/weights"),
        ({"weights": [1]}, "/params/weights"),
        ({"weights": [0, 0]}, "/params/weights"),
        ({"weights": [1, -1]}, "/params/weights/1"),
        ({"weights": [True, 1]}, "/params/weights/0"),
        ('{"weights": [1e999, 1]}', "/params/weights/0"),
        ('{"weights": [1, NaN]}', "/params/weights/1"),
        ('{"weights": [1' + "0" * 400 + ", 1]}", "/params/weights/0"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_bad_params_are_told_under_their_field(api: Api, settings: Settings, params: Any, pointer: str):
    api.add_model("starry", **ADAIN)
    with warm_worker(settings, drawn) as taken:
        assert pointers(stylize(api, params, files=form(styles=2))) == [pointer]
    assert taken == []


@pytest.mark.parametrize(
    ("model", "files", "pointer"),
    [
        (ADAPTED, form(styles=1), "/style"),
        (ADAPTED, form(styles=0, masks=1), "/mask"),
        (ADAIN, form(styles=0), "/style"),
        (ADAIN, form(styles=9), "/style"),
        (ADAIN, form(styles=2, masks=1), "/mask"),
        (ADAIN, [*form(styles=2, masks=1), ("mask", picture(8, 7))], "/mask/1"),
        (ADAIN, [*form(styles=1), ("style", b"text")], "/style/1"),
        (ADAIN, form(content_labels=picture(), style_labels=picture(8, 4)), "/content_labels"),
        (LINEAR, form(content_labels=picture()), "/style_labels"),
        (LINEAR, form(style_labels=picture(8, 4)), "/content_labels"),
        (LINEAR, form(styles=2, content_labels=picture(), style_labels=picture(8, 4)), "/style_labels"),
        (LINEAR, form(content_labels=picture(9, 6), style_labels=picture(8, 4)), "/content_labels/0"),
        (LINEAR, form(content_labels=picture(), style_labels=picture(8, 5)), "/style_labels/0"),
        (LINEAR, form(content_labels=picture(format="JPEG"), style_labels=picture(8, 4)), "/content_labels/0"),
        (ADAIN, form(init_image=picture()), "/init_image"),
        (GATYS, form(init_image=picture(9, 6)), "/init_image"),
        (GATYS, form(init_image=b"text"), "/init_image"),
        (CLASSIFIER, form(), ""),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_the_model_does_not_take_is_told_under_its_field(
    api: Api, settings: Settings, model: dict[str, Any], files: list[tuple[str, bytes]], pointer: str
):
    api.add_model("starry", **model)
    with warm_worker(settings, drawn) as taken:
        assert pointers(stylize(api, files=files)) == [pointer]
    assert taken == []


def test_a_mask_may_lie_as_its_content_does_before_the_rotation(api: Api, settings: Settings):
    """Only the worker decodes, so only it knows how the content is looked at."""
    api.add_model("starry", **ADAIN)
    files = [("content", picture(8, 6)), ("style", picture()), ("mask", picture(6, 8))]
    with warm_worker(settings, drawn):
        assert stylize(api, files=files).status_code == 200
