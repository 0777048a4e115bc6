"""`stylefoundry models stylize` and `Client.stylize`, with the models that come with the service."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.settings import Settings
from stylefoundry import ApiError, Client
from tests.images import encoded, jpeg, png
from tests.serving import working
from tests.stylefoundry.test_cli import Run, cli

__all__ = ["cli"]

QUICK = ("--set", "steps=2", "--size", "32")


@pytest.fixture
def worker(service_settings: Settings) -> Iterator[None]:
    with working(service_settings, warm=True):
        yield


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A photo, two paintings, a mask and its inverse, and a folder with a picture that is none."""
    (tmp_path / "mine.jpg").write_bytes(jpeg(48, 36, seed=4))
    (tmp_path / "wave.jpg").write_bytes(jpeg(40, 40, seed=5))
    (tmp_path / "night.png").write_bytes(png(40, 40, seed=6))
    for name, level in (("white.png", 255), ("black.png", 0)):
        (tmp_path / name).write_bytes(encoded(np.full((36, 48), level, dtype=np.uint8), "PNG"))
    (tmp_path / "album" / "deeper").mkdir(parents=True)
    (tmp_path / "album" / "a.jpg").write_bytes(jpeg(48, 36, seed=1))
    (tmp_path / "album" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "album" / "deeper" / "b.png").write_bytes(png(40, 48, seed=2))
    (tmp_path / "album" / "notes.txt").write_text("none either")
    return tmp_path


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.usefixtures("worker")
def test_a_service_without_any_training_stylises(cli: Run, here: Path):
    assert "built in" in cli("models", "list").stdout
    assert "comes with the service" in cli("models", "show", "gatys").stdout
    cli("models", "fetch", "gatys", "-o", "fetched")
    assert (here / "fetched" / "config.json").is_file()
    drawn = cli("models", "stylize", "gatys", "mine.jpg", "--style", "wave.jpg", *QUICK)
    assert drawn.stdout.strip() == "stylized.png"
    assert opened(here / "stylized.png").size == (43, 32)


@pytest.mark.usefixtures("worker")
def test_the_format_follows_the_name_of_the_output(cli: Run, here: Path):
    for name, format in (("out/mine.webp", "WEBP"), ("out/mine.jpeg", "JPEG"), ("out/mine.png", "PNG")):
        cli("models", "stylize", "gatys@1", "mine.jpg", "--style", "wave.jpg", "--out", name, *QUICK)
        assert opened(here / name).format == format
    cli("models", "stylize", "gatys", "mine.jpg", "--style", "wave.jpg", "--format", "webp", *QUICK)
    assert opened(here / "stylized.webp").format == "WEBP"


@pytest.mark.usefixtures("worker")
def test_a_folder_keeps_its_shape_and_one_bad_picture_does_not_stop_the_others(cli: Run, here: Path):
    arguments = ("models", "stylize", "gatys", "album", "--style", "wave.jpg:2", "--style", "night.png:0.5", *QUICK)
    done = cli(*arguments, "--out", "results", "--format", "jpeg", status=1)
    assert "1 of 3 pictures could not be drawn" in done.stderr
    assert "album/broken.jpg: /content: is no picture" in done.stderr
    made = sorted(path.relative_to(here / "results").as_posix() for path in (here / "results").rglob("*.*"))
    assert made == ["a.jpg", "deeper/b.jpg"]

    (here / "results" / "a.jpg").write_bytes(b"kept")
    (here / "album" / "broken.jpg").write_bytes(jpeg(48, 36, seed=3))
    cli(*arguments, "--out", "results", "--format", "jpeg", "--resume")
    assert (here / "results" / "a.jpg").read_bytes() == b"kept"
    assert opened(here / "results" / "broken.jpg").format == "JPEG"


@pytest.mark.usefixtures("worker")
def test_several_pictures_go_into_a_folder(cli: Run, here: Path):
    cli("models", "stylize", "gatys", "mine.jpg", "night.png", "--style", "wave.jpg", *QUICK)
    assert {path.name for path in (here / "stylized").iterdir()} == {"mine.png", "night.png"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine.jpg", "--out", "x.gif"], "--out x.gif: a picture ends in .png"),
        (["mine.jpg", "--out", "x.png", "--format", "jpeg"], "--out x.png: a picture in the format jpeg ends in .jpg"),
        (["mine.jpg", "--out", "mine.jpg"], "mine.jpg would be overwritten"),
        (["night.png", "--out", "."], "night.png would be overwritten"),
        (["mine.jpg", "album/../mine.jpg"], "would both become"),
        (["nowhere.jpg"], "nowhere.jpg"),
        (["mine.jpg", "--style", "nowhere.jpg"], "--style nowhere.jpg: there is no file"),
        (["mine.jpg", "--style", "nowhere.jpg:0.5"], "there is no file nowhere.jpg"),
        (["mine.jpg", "--style", "wave.jpg:heavy"], "'heavy' is no weight"),
        (["mine.jpg", "--preserve-color", "red"], "red"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_sent(cli: Run, here: Path, arguments: list[str], told: str):
    said = cli("models", "stylize", "gatys", *arguments, status=2).stderr
    words = " ".join(said.replace("│", " ").split())
    assert told in words


def test_what_is_wrong_for_every_picture_is_told_once(cli: Run, here: Path):
    for arguments, told in (
        (["gatys", "album"], "/style"),
        (["gatys", "album", "--style", "wave.jpg", "--set", "nonsense=1"], "/params/nonsense"),
        (["nothing", "album"], "there is no model nothing"),
    ):
        said = cli("models", "stylize", *arguments, status=1).stderr
        assert told in said
        assert "could not be drawn" not in said


@pytest.mark.usefixtures("worker")
def test_masks_weights_and_format_reach_the_model(client: Client, here: Path):
    styles = (here / "wave.jpg", here / "night.png")
    quick = {"steps": 2, "format": "jpeg"}
    drawn = client.stylize("gatys", here / "mine.jpg", styles=styles, weights=[1, 3], params=quick)
    assert drawn.startswith(b"\xff\xd8")
    with pytest.raises(ApiError) as refused:
        client.stylize("gatys", here / "mine.jpg", styles=styles, masks=[here / "white.png", here / "black.png"])
    assert [field.pointer for field in refused.value.errors] == ["/mask"]
    with pytest.raises(ApiError) as refused:
        client.stylize("gatys", here / "mine.jpg", styles=styles, weights=[1, -3])
    assert [field.pointer for field in refused.value.errors] == ["/params/weights/1"]
    with pytest.raises(ApiError) as refused:
        client.stylize("gatys", here / "mine.jpg", styles=styles[:1], labels=[styles])
    assert [field.pointer for field in refused.value.errors] == ["/content_labels"]


@pytest.mark.usefixtures("worker")
def test_maps_and_a_picture_to_start_from_go_through_the_command_line(cli: Run, here: Path):
    told = (
        "mine.jpg",
        "--style",
        "wave.jpg",
        "--set",
        "steps=2",
        "--init",
        "mine.jpg",
        "--maps",
        "maps",
        "-o",
        "a.jpg",
    )
    cli("models", "stylize", "gatys", *told)
    assert opened(here / "a.jpg").format == "JPEG"
    assert opened(here / "maps" / "a-style_loss.png").size == (240, 120)
    said = cli("models", "stylize", "gatys", "mine.jpg", "--style", "wave.jpg", "--style-labels", "white.png", status=2)
    assert "0 --content-labels for 1 --style-labels" in said.stderr
