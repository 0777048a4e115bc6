"""From file to file: as a drawing in memory, whatever the size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pyvips
import torch
from torch import Tensor

from stylemodels import large, prepare, vips
from stylemodels.export import describe_model
from stylemodels.images import load_picture, resize, save_picture, to_uint8
from stylemodels.large import described, loaded, stylize_file
from stylemodels.method import Style
from stylemodels.methods import find_task
from stylemodels.options import Options, draws_tiles
from stylemodels.stylize import Model
from tests import images
from tests.stylemodels.frugal import printed
from tests.stylemodels.toy import SMALL, paintings, small_task
from tests.stylemodels.toy_drawing import Blend, Invert, model_of

TILED = {"tile": 256}


class TiledBlend(Blend):
    """`Blend`, tile by tile: without masks what it does at a place depends on that place alone."""

    def stylize_tiles(self, source: Any, target: Any, styles: Any, controls: Any, *, tile: int) -> None:
        for top in range(0, source.height, tile):
            height = min(tile, source.height - top)
            drawn = self.stylize(source.read(top, 0, height, source.width), styles, controls)
            assert drawn.image is not None
            target.write(top, 0, drawn.image)


def read(path: Path) -> Tensor:
    """A file of any format that `stylize_file` writes, whole."""
    return loaded(described(path, Options()))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """301 x 203 px, no multiples of anything."""
    path = tmp_path / "photo.png"
    path.write_bytes(images.png(301, 203))
    return path


@pytest.mark.parametrize("controls", [{}, {"passes": 2}, {"passes": 3, "preserve_color": "luminance"}])
def test_a_file_drawn_in_tiles_is_the_file_drawn_whole(photo: Path, tmp_path: Path, controls: dict[str, Any]):
    model = model_of(Invert)
    assert stylize_file(model, photo, tmp_path / "whole.png", (), controls) == (203, 301)
    assert model.task.tiles_drawn == 0
    assert stylize_file(model, photo, tmp_path / "tiled.png", (), controls | TILED) == (203, 301)
    assert model.task.tiles_drawn == 2 * controls.get("passes", 1)
    expected = to_uint8(model.stylize(load_picture(photo), (), controls))
    assert torch.equal(to_uint8(load_picture(tmp_path / "whole.png")), expected)
    assert torch.equal(to_uint8(load_picture(tmp_path / "tiled.png")), expected)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "whole.png", "tiled.png"}, (
        "nothing is left behind"
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_content_is_turned_as_exif_says_strip_by_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, format: str
):
    monkeypatch.setattr(vips, "STRIP_PX", 7 * 60)  # seven rows to a strip, and four to the last
    (tmp_path / "in").write_bytes(images.rotated(images.photograph(60, 39), orientation, format))
    stylize_file(model_of(Invert), tmp_path / "in", tmp_path / "out.png", (), TILED)
    assert torch.equal(to_uint8(load_picture(tmp_path / "out.png")), to_uint8(1.25 - load_picture(tmp_path / "in")))


def test_a_canvas_on_disk_is_padded_as_one_in_memory(tmp_path: Path):
    (tmp_path / "strip.png").write_bytes(images.png(301, 17))
    seen: list[Tensor] = []

    class Watching(Invert):
        def stylize_tiles(self, source: Any, target: Any, *rest: Any, tile: int) -> None:
            seen.append(source.read(0, 0, source.height, source.width))
            super().stylize_tiles(source, target, *rest, tile=tile)

    stylize_file(model_of(Watching), tmp_path / "strip.png", tmp_path / "out.png", (), TILED)
    content = load_picture(tmp_path / "strip.png")
    assert torch.equal(seen[0], prepare.padded(content, prepare.Size(32, 304)))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp", "a.tif", "a.tiff"])
def test_every_format_is_written(photo: Path, tmp_path: Path, name: str):
    stylize_file(model_of(Invert), photo, tmp_path / name, (), TILED)
    expected = (1.25 - load_picture(photo)).clamp(0, 1)
    loss = 0.002 if name.endswith(("png", "tif", "tiff")) else 0.03
    assert (read(tmp_path / name) - expected).abs().mean() <= loss
    written = pyvips.Image.new_from_file(str(tmp_path / name))
    assert b"s\0R\0G\0B" in written.get("icc-profile-data")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("controls", [{}, TILED])
def test_sixteen_bits_go_in_and_out(tmp_path: Path, name: str, controls: dict[str, int]):
    levels = np.random.default_rng(0).integers(20_000, 65_536, (70, 90, 3)).astype(np.uint16)
    content = torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1) / 65535
    save_picture(content, tmp_path / name, bits=16)
    stylize_file(model_of(Invert), tmp_path / name, tmp_path / f"out-{name}", (), controls, bits=16)
    written = pyvips.Image.new_from_file(str(tmp_path / f"out-{name}")).numpy()
    assert written.dtype == np.uint16
    assert np.abs(written.astype(int) - (1.25 * 65535 - levels).clip(0, 65535).round()).max() <= 1


@pytest.mark.parametrize("options", [{}, {"pyramid": True, "tile": True}, {"bigtiff": True, "compression": "lzw"}])
def test_tiff_comes_in_in_its_many_forms(tmp_path: Path, options: dict[str, Any]):
    pixels = images.photograph(301, 203)
    pyvips.Image.new_from_array(pixels).tiffsave(str(tmp_path / "a.tif"), **options)
    for controls in ({}, TILED):
        stylize_file(model_of(Invert), tmp_path / "a.tif", tmp_path / "out.png", (), controls)
        assert np.array_equal(
            to_uint8(1 - load_picture(tmp_path / "out.png") + 0.25).numpy()[pixels > 64], pixels[pixels > 64]
        )


def test_transparency_and_profiles_are_what_they_are_in_memory(tmp_path: Path):
    pixels, alpha = images.photograph(64, 48), np.full((48, 64), 255, dtype=np.uint8)
    alpha[:, :20], alpha[:, 20:30] = 0, 100
    (tmp_path / "alpha.png").write_bytes(images.transparent_png(pixels, alpha))
    (tmp_path / "palette.png").write_bytes(images.palette_png())
    (tmp_path / "gray.png").write_bytes(images.grey_16_bit_png(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16))
    for name in ("alpha", "palette", "gray"):
        stylize_file(model_of(Invert), tmp_path / f"{name}.png", tmp_path / "out.png", (), TILED)
        expected = (1.25 - load_picture(tmp_path / f"{name}.png")).clamp(0, 1)
        assert (load_picture(tmp_path / "out.png") - expected).abs().max() < 1.6 / 255, "rounded twice"


def test_a_size_is_made_strip_by_strip_too(photo: Path, tmp_path: Path):
    stylize_file(model_of(Invert), photo, tmp_path / "out.png", (), TILED | {"size": 100})
    small = resize(load_picture(photo), 100, 148)
    assert (1.25 - load_picture(tmp_path / "out.png") - small.clamp_min(0.25)).abs().max() < 4 / 255, "libvips' bicubic"
    stylize_file(model_of(Invert), photo, tmp_path / "large.png", (), TILED | {"size": 400})
    enlarged = resize(load_picture(photo), 400, 593)
    assert (1.25 - load_picture(tmp_path / "large.png") - enlarged.clamp_min(0.25)).abs().max() < 4 / 255


def test_styles_masks_and_coral_work_on_disk_as_in_memory(photo: Path, tmp_path: Path):
    styles = [Style(paintings(1, 40), 1.0), Style(paintings(1, 50, seed=1), 3.0)]
    for controls in ({"alpha": 0.5, "preserve_color": "coral"}, {"alpha": 0.5, "preserve_color": "luminance"}):
        stylize_file(model_of(TiledBlend), photo, tmp_path / "out.png", styles, controls | TILED)
        expected = model_of(TiledBlend).stylize(load_picture(photo), styles, controls)
        assert (load_picture(tmp_path / "out.png") - expected).abs().max() < 0.51 / 255
    model = model_of(TiledBlend)
    mask = (torch.arange(301) < 100).float().expand(1, 1, 203, 301)
    stylize_file(
        model, photo, tmp_path / "out.png", [Style(paintings(1, 40), mask=mask), styles[1]], TILED | {"size": 101}
    )
    first = model.task.given[0][1][0].mask
    assert first is not None
    assert first.shape == (1, 1, 112, 160)


def test_a_drawing_reports_to_the_end(photo: Path, tmp_path: Path):
    for controls in ({"passes": 2}, {"passes": 2} | TILED):
        heard: list[float] = []
        stylize_file(model_of(Invert), photo, tmp_path / "out.png", (), controls, report=heard.append)
        assert heard == sorted(heard)
        assert heard[-1] == 1.0


def test_a_large_picture_goes_by_tiles_without_being_told(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "TILE_ABOVE_PX", 60_000)
    model = model_of(Invert)
    stylize_file(model, photo, tmp_path / "out.png")
    assert model.task.tiles_drawn == 1
    stylize_file(model, photo, tmp_path / "out.png", (), {"size": 100})
    assert model.task.tiles_drawn == 1, "what counts is the size that is drawn"


def test_a_picture_that_no_memory_holds_can_be_drawn_small(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(large, "MAX_PIXELS", 10_000)
    stylize_file(model_of(Blend), photo, tmp_path / "out.png", [Style(paintings(1, 32))], {"alpha": 0, "size": 50})
    small = resize(load_picture(photo), 50, 74)
    assert (load_picture(tmp_path / "out.png") - small).abs().max() < 4 / 255


class Refusal(NamedTuple):
    """A picture, where it should go, how, and what is said."""

    data: bytes
    out: str
    controls: dict[str, Any]
    words: str


REFUSALS = {
    "text": Refusal(images.text(), "out.png", {}, r"in: not a JPEG, PNG or WebP"),
    "cut PNG": Refusal(images.truncated(images.png()), "out.png", TILED, r"in: broken or cut off"),
    "cut PNG in memory": Refusal(images.truncated(images.png()), "out.png", {}, r"in: broken or cut off"),
    "cut JPEG": Refusal(images.truncated(images.jpeg()), "out.png", TILED, r"in: broken or cut off"),
    "cut WebP": Refusal(images.truncated(images.webp()), "out.png", TILED, r"in: (broken|not a readable)"),
    "cut header": Refusal(images.jpeg()[:20], "out.png", TILED, r"in: not a readable JPEG"),
    "strip": Refusal(images.jpeg(400, 17), "out.png", TILED, r"in: too long: 400 x 17"),
    "animation": Refusal(images.animated_webp(), "out.png", TILED, r"in: animated"),
    "broken TIFF": Refusal(b"II*\0nonsense", "out.png", {}, r"in: not a readable TIFF"),
    "too small": Refusal(images.png(15, 40), "out.png", TILED, r"content: a picture of 15 x 40 px"),
    "format": Refusal(images.png(), "out.gif", {}, r"out\.gif: pictures are written as \.png"),
    "WebP's sides": Refusal(
        images.png(), "out.webp", TILED | {"size": 12_500}, r"out\.webp: 16667 x 12500 px cannot be"
    ),
    "control": Refusal(images.png(), "out.png", {"tiles": 256}, r"tiles: unknown setting"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_drawn_is_refused_by_name_and_nothing_is_left_or_lost(tmp_path: Path, name: str):
    data, out, controls, words = REFUSALS[name]
    (tmp_path / "in").write_bytes(data)
    (tmp_path / out).write_bytes(b"an earlier result")
    with pytest.raises(ValueError, match=words):
        stylize_file(model_of(Invert), tmp_path / "in", tmp_path / out, (), controls)
    assert {path.name for path in tmp_path.iterdir()} == {"in", out}
    assert (tmp_path / out).read_bytes() == b"an earlier result"


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nothing\.jpg"):
        stylize_file(model_of(Invert), tmp_path / "nothing.jpg", tmp_path / "out.png")


def test_a_disk_that_is_too_full_is_noticed_before_anything_is_drawn(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full = large.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(large.shutil, "disk_usage", lambda _: full)
    model = model_of(Invert)
    with pytest.raises(
        ValueError, match=r"301 x 203 px need up to 0\.0 GiB on this disk .* free: choose a smaller size"
    ):
        stylize_file(model, photo, tmp_path / "out.png", (), TILED)
    assert model.task.tiles_drawn == 0


def test_without_libvips_small_pictures_are_drawn_and_tiles_say_what_is_missing(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vips, "library", lambda: None)
    stylize_file(model_of(Invert), photo, tmp_path / "out.png")
    assert (tmp_path / "out.png").exists()
    with pytest.raises(ValueError, match=r"libvips, which is not installed: pip install 'stylefoundry\[large\]'"):
        stylize_file(model_of(Invert), photo, tmp_path / "out.png", (), TILED)


TILING = sorted(name for name in SMALL if draws_tiles(type(small_task(name))))


@pytest.mark.parametrize("name", TILING)
def test_a_real_method_draws_files_in_tiles_as_it_draws_them_whole(photo: Path, tmp_path: Path, name: str):
    task = small_task(name)
    method, task_name = find_task(name)
    model = Model(task.eval().requires_grad_(False), describe_model(task, method, task_name))
    styles = [Style(paintings(1, 64))] * task.styles[0]
    own = {"mode": "image"} if name == "linear/train-filter" else {}  # its other mode is for whole pictures
    for controls in (own, own | {"preserve_color": "luminance", "passes": 2}):
        stylize_file(model, photo, tmp_path / "out.png", styles, controls | TILED, bits=16)
        expected = model.stylize(load_picture(photo), styles, controls)
        assert (load_picture(tmp_path / "out.png") - expected).abs().max() <= 2 / 255


TOY = "from tests.stylemodels.toy_drawing import Invert, model_of; model, styles = model_of(Invert), []"
WCT = """
from stylemodels.export import describe_model
from stylemodels.method import Style
from stylemodels.methods import find_task
from stylemodels.stylize import Model
from tests.stylemodels.toy import paintings, small_task
task = small_task("wct/train")
model = Model(task.eval().requires_grad_(False), describe_model(task, *find_task("wct/train")))
styles = [Style(paintings(1, 128))]
"""
PROGRAM = """
import sys
from pathlib import Path
from stylemodels.large import stylize_file
for content, out in zip(sys.argv[1::2], sys.argv[2::2]):
    stylize_file(model, Path(content), Path(out), styles, {"tile": 256, "preserve_color": "luminance"})
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def growth_mib(folder: Path, names: tuple[str, str], width: int, heights: tuple[int, int], model: str = TOY) -> float:
    """How much more memory a process needs for a picture of the second height than it needed for one of the first."""
    files = []
    for height in heights:
        content, out = (folder / f"{height}-{name}" for name in names)
        waves = pyvips.Image.sines(width, height, hfreq=7, vfreq=3).linear(127, 128).cast("uchar")
        waves.bandjoin([waves.fliphor(), waves]).copy(interpretation="srgb").write_to_file(str(content))
        files += [content, out]
    kib = printed("-c", f"{model}\n{PROGRAM}", *map(str, files))
    assert [described(out, Options()).given for out in files[1::2]] == [(height, width) for height in heights]
    before, after = map(int, kib.split())
    return (after - before) / 1024


PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@PROC
@pytest.mark.parametrize(
    "names", [("in.png", "out.jpg"), pytest.param(("in.jpg", "out.tif"), marks=pytest.mark.slow)], ids="-".join
)
def test_memory_grows_with_the_tile_and_not_with_the_picture(tmp_path: Path, names: tuple[str, str]):
    """Six times the rows: 30 MB more as bytes, 126 MB more as the floating point numbers of each of two rasters."""
    assert growth_mib(tmp_path, names, 2048, (1024, 6144)) < 30


@PROC
@pytest.mark.slow
def test_the_memory_of_a_real_method_does_not_grow_with_the_picture_either(tmp_path: Path):
    """Drawn whole, the widest features of the larger picture alone would take 160 MB."""
    assert growth_mib(tmp_path, ("in.png", "out.png"), 1024, (1024, 5120), WCT) < 50
