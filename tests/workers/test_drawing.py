"""One stylise request drawn in this process: what is taken, what is refused under which field, when it is given up."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestrator.bus import Bus
from stylemodels.encoders import load_encoder
from stylemodels.export import describe_model
from stylemodels.images import load_picture
from stylemodels.method import Given
from stylemodels.methods import find_task
from stylemodels.settings import build
from stylemodels.stylize import Model
from tests import images
from workers.drawing import Expired, Refused, Watch, draw, pointer_of_message

PLAIN: Mapping[str, Any] = {
    "model": {}, "params": {}, "weights": None, "format": "png", "styles": 1, "masks": False, "regions": [0, 0],
    "init_image": False, "maps": False, "timeout_s": 60,
}  # fmt: skip
WHITE = images.encoded(np.full((48, 64), 255, dtype=np.uint8), "PNG")
BLACK = images.encoded(np.zeros((48, 64), dtype=np.uint8), "PNG")


DEEP = {"format": "png16"}  # an untrained decoder hardly moves 8 bits


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


@pytest.fixture
def bus(redis_url: str) -> Bus:
    return Bus(redis_url)


@cache
def model_of(task: str) -> Model:
    """Untrained, from the encoder `random`."""
    torch.manual_seed(0)
    method, name = find_task(task)
    task_class = method.tasks[name]
    config: Any = build(task_class.Config, {"encoder": "random"})
    made = task_class(config, Given(task_class.needs, encoder=load_encoder("random"))).eval().requires_grad_(False)
    return Model(made, describe_model(made, method, name))


def drawn(
    bus: Bus, change: Mapping[str, Any] | None = None, *, task: str = "adain/train", **blobs: bytes
) -> tuple[dict[str, Any], bytes]:
    """Content and one style unless `blobs` say otherwise; `style_0` is the blob `style-0`."""
    pictures = {"content": images.jpeg(64, 48), "style_0": images.jpeg(40, 40, seed=1)} | blobs
    named = {re.sub(r"_(\d)$", r"-\1", name): data for name, data in pictures.items()}
    request_id = uuid.uuid4().hex
    bus.request(request_id, {}, named, expire_s=30)
    request = {**PLAIN, "id": request_id, **(change or {})}
    return draw(request, lambda _: model_of(task), bus, max_mpx=1)


@pytest.mark.parametrize(
    ("format", "content_type", "mode"),
    [("png", "image/png", "RGB"), ("jpeg", "image/jpeg", "RGB"), ("webp", "image/webp", "RGB")],
)
def test_a_picture_comes_in_the_format_that_was_asked_for(bus: Bus, format: str, content_type: str, mode: str):
    head, data = drawn(bus, {"format": format})
    assert head == {"status": 200, "content_type": content_type, "width": 64, "height": 48}
    picture = Image.open(io.BytesIO(data))
    assert (Image.MIME[str(picture.format)], picture.size, picture.mode) == (content_type, (64, 48), mode)


def test_a_png_of_16_bits_has_levels_between_those_of_8(bus: Bus):
    _, data = drawn(bus, {"format": "png16"})
    levels = load_picture(data) * 255
    assert (levels - levels.round()).abs().max() > 0.1


def test_a_size_is_the_shorter_side_of_the_result(bus: Bus):
    head, _ = drawn(bus, {"params": {"size": 96}})
    assert (head["width"], head["height"]) == (128, 96)


def test_a_mask_of_one_style_alone_gives_that_styles_picture(bus: Bus):
    other = images.jpeg(40, 40, seed=7)
    both = {"styles": 2, "masks": True, **DEEP}
    alone = load_picture(drawn(bus, DEEP)[1])
    masked = load_picture(drawn(bus, both, style_1=other, mask_0=WHITE, mask_1=BLACK)[1])
    swapped = load_picture(drawn(bus, both, style_1=other, mask_0=BLACK, mask_1=WHITE)[1])
    assert distance(masked, alone) < 0.01 * distance(swapped, alone)


def test_a_weight_of_zero_leaves_a_style_out(bus: Bus):
    other = images.jpeg(40, 40, seed=7)
    alone = load_picture(drawn(bus, DEEP)[1])
    weighted = load_picture(drawn(bus, {"styles": 2, "weights": [3.0, 0.0], **DEEP}, style_1=other)[1])
    even = load_picture(drawn(bus, {"styles": 2, **DEEP}, style_1=other)[1])
    assert distance(weighted, alone) < 0.01 * distance(even, alone)


def test_label_maps_pair_regions(bus: Bus):
    halves = images.encoded(np.repeat([[0, 200]], 48, axis=0).repeat(32, axis=1).astype(np.uint8), "PNG")
    style_halves = images.encoded(np.repeat([[200, 0]], 40, axis=0).repeat(20, axis=1).astype(np.uint8), "PNG")
    labels = {"content_labels_0": halves, "style_labels_0": style_halves}
    plain = load_picture(drawn(bus, DEEP, task="linear/train")[1])
    paired = load_picture(drawn(bus, {"regions": [1, 1], **DEEP}, task="linear/train", **labels)[1])
    assert distance(paired, plain) > 0


def test_one_label_map_of_the_content_goes_with_every_style(bus: Bus):
    halves = images.encoded(np.repeat([[0, 200]], 48, axis=0).repeat(32, axis=1).astype(np.uint8), "PNG")
    of_styles = {f"style_labels_{n}": images.encoded(np.full((40, 40), 200 * n, np.uint8), "PNG") for n in (0, 1)}
    two = {"styles": 2, "regions": [1, 2]}
    shared = drawn(bus, two, task="linear/train", style_1=images.jpeg(40, 40), content_labels_0=halves, **of_styles)
    each = {"content_labels_0": halves, "content_labels_1": halves, **of_styles}
    apart = drawn(bus, two | {"regions": [2, 2]}, task="linear/train", style_1=images.jpeg(40, 40), **each)
    assert shared == apart


def test_maps_come_in_a_zip_beside_the_picture(bus: Bus):
    quick = {"params": {"steps": 2}}
    plain = drawn(bus, quick, task="gatys/optimise")[1]
    head, data = drawn(bus, {**quick, "maps": True}, task="gatys/optimise")
    assert (head["content_type"], head["width"]) == ("application/zip", 64)
    with ZipFile(io.BytesIO(data)) as file:
        assert file.namelist()[:2] == ["picture.png", "maps/content_loss.png"]
        assert file.read("picture.png") == plain
        assert Image.open(io.BytesIO(file.read("maps/style_loss.png"))).size == (240, 120)
        numbers = json.loads(file.read("maps/figures.json"))
        assert numbers["style_loss"][-1] < numbers["style_loss"][0]


def test_a_drawing_goes_on_from_another_picture(bus: Bus):
    start = images.png(64, 48, seed=5)
    quick = {"params": {"steps": 1, "optimizer": "adam", "lr": 1e-6}}
    begun = drawn(bus, {**quick, "init_image": True}, task="gatys/optimise", init_image=start)[1]
    assert distance(load_picture(begun), load_picture(start)) < 0.01
    assert distance(load_picture(drawn(bus, quick, task="gatys/optimise")[1]), load_picture(start)) > 0.1


@pytest.mark.parametrize(
    ("change", "blobs", "pointer", "said"),
    [
        ({}, {"content": b"no picture"}, "/content", "not a JPEG, PNG or WebP picture"),
        ({}, {"content": images.truncated(images.jpeg())}, "/content", "cut off"),
        ({}, {"content": images.header_bomb(2000, 2000)}, "/content", "too large"),
        ({}, {"content": images.jpeg(64, 15)}, "/content", "at least 16 px"),
        ({}, {"style_0": images.text()}, "/style/0", "not a JPEG"),
        ({"styles": 2}, {"style_1": images.truncated(images.png())}, "/style/1", "cut off"),
        ({"masks": True}, {"mask_0": images.png(63, 48)}, "/mask/0", "over the content it is"),
        ({"masks": True}, {"mask_0": b""}, "/mask/0", "not a JPEG"),
        ({"params": {"alpha": 7}}, {}, "/params/alpha", "at most 1"),
        ({"params": {"colour": 1}}, {}, "/params/colour", "unknown setting"),
        ({"params": {"size": 12_000}}, {}, "/params/size", "12000"),
        ({"styles": 0}, {}, "/style", "0 pictures were given"),
        ({"weights": [0.0]}, {}, "/params/weights", "not all 0"),
        (
            {"regions": [1, 1]},
            {"content_labels_0": images.jpeg(), "style_labels_0": images.png(40, 40)},
            "/content_labels",
            "PNG",
        ),
        (
            {"regions": [1, 1]},
            {"content_labels_0": WHITE, "style_labels_0": images.truncated(WHITE)},
            "/style_labels",
            "PNG",
        ),
        ({"regions": [1, 1]}, {"content_labels_0": WHITE, "style_labels_0": WHITE}, "/content_labels", "takes none"),
        ({"init_image": True}, {"init_image": images.png(64, 48)}, "/init_image", "starts from the content alone"),
    ],
)
def test_what_cannot_be_drawn_is_refused_under_its_field(
    bus: Bus, change: dict[str, Any], blobs: dict[str, bytes], pointer: str, said: str
):
    with pytest.raises(Refused, match=said) as refused:
        drawn(bus, change, **blobs)
    assert refused.value.pointer == pointer


def test_a_style_of_one_pixel_and_a_constant_content_are_drawn(bus: Bus):
    flat = images.encoded(np.full((48, 64, 3), 128, dtype=np.uint8), "PNG")
    head, data = drawn(bus, content=flat, style_0=images.png(1, 1))
    assert head["status"] == 200
    assert load_picture(data).isfinite().all()


def test_messages_of_the_library_lead_to_fields():
    assert pointer_of_message("style 2: mask: wrong") == ("/mask/1", "wrong")
    assert pointer_of_message("style 1: regions: wrong") == ("/content_labels", "wrong")
    assert pointer_of_message("style 3: the picture: wrong") == ("/style/2", "the picture: wrong")
    assert pointer_of_message("model.safetensors: wrong") == (None, "model.safetensors: wrong")


# --- giving up --------------------------------------------------------------------------------------------------------


def awaited(bus: Bus) -> str:
    request_id = uuid.uuid4().hex
    bus.request(request_id, {}, {}, expire_s=30)
    return request_id


def test_a_drawing_that_takes_too_long_is_ended_with_what_to_do(bus: Bus):
    watch = Watch(bus, awaited(bus), timeout_s=-1)
    with pytest.raises(Refused, match="40% were done; ask for a smaller size") as late:
        watch(0.4)
    assert late.value.pointer == "/params/size"


def test_a_drawing_that_nobody_waits_for_is_not_begun(bus: Bus):
    request_id = awaited(bus)
    watch = Watch(bus, request_id, timeout_s=60)
    bus.withdraw(request_id)
    with pytest.raises(Expired, match="nobody waits"):
        watch(0.0)


def test_pictures_that_have_expired_are_no_fault_of_the_caller(bus: Bus):
    request = {**PLAIN, "id": awaited(bus)}
    with pytest.raises(Expired, match="content: the picture had expired"):
        draw(request, lambda _: model_of("adain/train"), bus, max_mpx=1)


def test_a_long_drawing_is_ended_in_the_middle(bus: Bus):
    """Gatys tells how far it is after every evaluation: the watch has its chance there."""
    with pytest.raises(Refused, match="the most that this service allows"):
        drawn(bus, {"timeout_s": 0.3, "params": {"steps": 20_000}}, task="gatys/optimise")
