"""A model's form: what it offers comes from the model, and what one does in it reaches the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from orchestrator.catalogue import read_catalogue
from orchestrator.settings import Settings
from stylefoundry.terminal import value_of
from tests.browser.site import Site
from tests.images import encoded, jpeg
from tests.serving import working
from tests.waiting import wait_until

DRAWN_MS = 60_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photo, two paintings, and a mask for the left and the right half."""
    (tmp_path / "photo.jpg").write_bytes(jpeg(96, 64, seed=5))
    for n in (1, 2):
        (tmp_path / f"painting-{n}.jpg").write_bytes(jpeg(64, 64, seed=40 + n))
    left = np.zeros((64, 96), dtype=np.uint8)
    left[:, :48] = 255
    (tmp_path / "left.png").write_bytes(encoded(left, "PNG"))
    (tmp_path / "right.png").write_bytes(encoded(255 - left, "PNG"))
    return tmp_path


def form_of(site: Site, name: str = "gatys") -> Page:
    return site.goto(f"/models/{name}")


def asked(site: Site) -> dict[str, Any]:
    """What a click on the button asks a worker for; the hands behind the page answer with a picture."""
    site.bus.say_idle("warm-1", expire_s=30)
    site.page.get_by_role("button", name="Stylise").click()
    request = site.bus.next_request(timeout_s=4)
    assert request is not None
    site.bus.answer(request["id"], {"status": 200, "content_type": "image/jpeg"}, jpeg(96, 64), expire_s=10)
    expect(site.page.locator(".triptych .result")).to_be_visible()
    return request


def natural_size(image: Locator) -> list[int]:
    size: list[int] = image.evaluate("(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
    return size


def test_every_control_of_the_model_is_there_with_its_default(site: Site, service_settings: Settings):
    info = read_catalogue(service_settings.cache_dir).task("gatys", "optimise")
    assert info is not None
    page = form_of(site)
    page.get_by_text("More controls").click()
    for name, prop in info.controls["properties"].items():
        field = page.locator(f"[data-param={name}]")
        expect(field).to_be_visible()
        shown = field.input_value()
        assert (shown and value_of(shown)) == ("" if prop["default"] is None else prop["default"]), name
        expect(field.locator("xpath=ancestor::label")).to_have_attribute("title", prop["description"])
    assert page.locator("[data-param]").count() == len(info.controls["properties"])


def test_a_photo_and_a_painting_become_a_triptych(site: Site, service_settings: Settings, folder: Path):
    with working(service_settings, warm=True):
        wait_until(lambda: site.bus.idle_workers() > 0, 30, "the worker is free")
        page = form_of(site)
        page.get_by_label("Photo").set_input_files(folder / "photo.jpg")
        page.get_by_label("Style", exact=True).set_input_files(folder / "painting-1.jpg")
        page.get_by_label("size", exact=True).fill("48")
        page.get_by_text("More controls").click()
        page.get_by_label("steps").fill("3")
        page.get_by_label("format").select_option("webp")
        page.get_by_role("button", name="Stylise").click()
        expect(page.locator(".triptych .result")).to_be_visible(timeout=DRAWN_MS)
    assert natural_size(page.locator(".triptych .content")) == [96, 64]
    assert natural_size(page.locator(".triptych .of-styles img")) == [64, 64]
    assert natural_size(page.locator(".triptych .result")) == [72, 48]
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the picture").click()
    assert download.value.suggested_filename == "gatys.webp"
    assert Path(download.value.path()).read_bytes()[8:12] == b"WEBP"


def test_styles_are_added_weighed_and_removed(site: Site, service_settings: Settings, folder: Path):
    page = form_of(site)
    page.get_by_label("Photo").set_input_files(folder / "photo.jpg")
    weights = page.locator("[name=weight]")
    expect(weights).to_be_hidden()
    page.get_by_role("button", name="Add a style").click()
    page.get_by_role("button", name="Add a style").click()
    expect(page.locator(".style")).to_have_count(3)
    page.get_by_role("button", name="Remove").nth(1).click()
    for n in (1, 2):
        page.get_by_label(f"Style {n}").set_input_files(folder / f"painting-{n}.jpg")
    weights.nth(1).fill("0.25")
    expect(page.locator(".weight output").nth(1)).to_have_text("0.25")
    request = asked(site)
    assert (request["styles"], request["weights"]) == (2, [1.0, 0.25])
    assert request["params"] == {}, "only what was touched is said"
    expect(page.locator(".of-styles img")).to_have_count(2)
    for _ in range(6):
        page.get_by_role("button", name="Add a style").click()
    expect(page.get_by_role("button", name="Add a style")).to_be_hidden()


def test_a_model_with_masks_takes_one_for_each_style(site: Site, folder: Path):
    name = "painter"
    site.add_model(name, method="adain", config={"encoder": "random"})
    page = form_of(site, name)
    page.get_by_label("Photo").set_input_files(folder / "photo.jpg")
    page.get_by_role("button", name="Add a style").click()
    for n, side in ((1, "left"), (2, "right")):
        page.get_by_label(f"Style {n}").set_input_files(folder / f"painting-{n}.jpg")
        page.get_by_label("mask").nth(n - 1).set_input_files(folder / f"{side}.png")
    page.get_by_label("alpha").fill("0.4")
    request = asked(site)
    assert (request["styles"], request["masks"], request["params"]) == (2, True, {"alpha": 0.4})
    for n, side in ((0, "left"), (1, "right")):
        assert site.bus.blob(request["id"], f"mask-{n}") == (folder / f"{side}.png").read_bytes()


def test_a_model_that_is_the_style_asks_for_no_painting(site: Site):
    site.add_model("starry", method="metastyle", task="adapt", config={"encoder": "random"})
    page = form_of(site, "starry")
    expect(page.get_by_label("Photo")).to_be_visible()
    expect(page.locator("#styles")).to_have_count(0)
    expect(page.get_by_label("strength")).to_have_value("1")


def test_what_the_service_refuses_is_said_in_the_form(site: Site, folder: Path):
    (folder / "text.jpg").write_text("no picture")
    page = form_of(site)
    page.get_by_label("Photo").set_input_files(folder / "text.jpg")
    page.get_by_label("Style", exact=True).set_input_files(folder / "painting-1.jpg")
    page.get_by_role("button", name="Stylise").click()
    expect(page.locator("#try-state")).to_contain_text("/content: is no picture")
