"""Several models on the same pictures, on sheets and in tables that people can trust."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from stylemodels.__main__ import main
from stylemodels.commands.compare import named
from stylemodels.comparison import Contestant, Drawn, compare, distances, table
from stylemodels.encoders import load_encoder
from stylemodels.export import write_model
from stylemodels.images import MAX_SIDE_PX, load_picture, save_picture
from stylemodels.memory import CLEAR, peak
from stylemodels.method import Picture, Style
from stylemodels.methods import find_task
from stylemodels.quality import measure
from stylemodels.sheet import CAPTION_PX, GAP_PX, MOST_ROWS, TILE_PX, Cell, contact_sheet, thumbnail
from tests.stylemodels.toy import paintings, photos, small_task
from tests.stylemodels.toy_drawing import Blend, Invert, model_of

ENCODER = load_encoder("random")


def two() -> list[Contestant]:
    """One that takes styles, one that is a style itself."""
    return [
        Contestant("blend", model_of(Blend), {"alpha": 0.5}, "untrained"),
        Contestant("invert", model_of(Invert)),
    ]


def test_every_contestant_draws_every_pair_as_it_does_alone():
    contents, styles = [photos(1, 48), photos(1, 64, seed=1)], [paintings(1, 40), paintings(1, 56, seed=1)]
    drawn: list[Drawn] = []
    compare(two(), contents, styles, encoder=ENCODER, drew=drawn.append)
    pairs = [(n, m) for n in (0, 1) for m in (0, 1)]
    assert [(one.contestant, one.content, one.style) for one in drawn] == [
        (name, *pair) for name in ("blend", "invert") for pair in pairs
    ]
    blend = model_of(Blend)
    assert_close(drawn[1].picture, blend.stylize(contents[0], [Style(styles[1])], {"alpha": 0.5}))
    assert drawn[4].picture is drawn[5].picture, "a model that is the style draws a content once"


def test_losses_are_the_means_of_those_of_the_pictures():
    contents, styles = [photos(1, 48), photos(1, 64, seed=1)], [paintings(1, 40), paintings(1, 56, seed=1)]
    drawn: list[Drawn] = []
    blend, invert = compare(two(), contents, styles, encoder=ENCODER, drew=drawn.append)
    for line in (blend, invert):
        mine = [one for one in drawn if one.contestant == line.name]
        each = [measure(one.picture, contents[one.content], styles[one.style], ENCODER) for one in mine]
        assert line.content_loss == pytest.approx(sum(one.content_loss for one in each) / 4)
        assert line.style_loss == pytest.approx(sum(one.style_loss for one in each) / 4)
    assert (blend.styles, invert.styles, blend.note) == ("any", "1", "untrained")
    assert blend.parameters == 2, "a scale and its bias"
    assert blend.mpx_per_s * blend.seconds == pytest.approx((48 * 48 + 64 * 64) / 2 / 1e6)


def test_a_picture_of_another_size_is_measured_against_the_content_at_that_size():
    content, style = photos(1, 64), paintings(1, 40)
    smaller = photos(1, 64)[..., ::2, ::2]
    content_loss, _ = distances(smaller, content, style, ENCODER)
    assert 0 < content_loss < 0.5


@pytest.mark.parametrize(
    ("contestants", "contents", "styles", "message"),
    [
        ([], [photos(1, 48)], [paintings(1, 40)], "models: none"),
        ([*two(), two()[0]], [photos(1, 48)], [paintings(1, 40)], "models: 'blend' takes part twice"),
        (two(), [], [paintings(1, 40)], "content: no picture"),
        (two(), [photos(1, 48)], [], "style: no picture"),
        (two(), [photos(1, 48), photos(1, 31)], [paintings(1, 40)], "content 2: 31 x 31 px"),
        ([Contestant("blend", model_of(Blend), {"beta": 1})], [photos(1, 48)], [paintings(1, 40)], "blend: .*beta"),
    ],
)
def test_what_cannot_be_compared_is_named(contestants, contents, styles, message):  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        compare(contestants, contents, styles, encoder=ENCODER)


def test_the_share_that_is_done_rises_to_one():
    """Also in the middle of a picture, so that whoever wants to stop need not wait for it."""
    shares: list[float] = []
    compare(two(), [photos(1, 48)], [paintings(1, 40), paintings(1, 40, seed=1)], encoder=ENCODER, report=shares.append)
    assert shares == [0.125, 0.25, 0.375, 0.5, 1]


def test_a_table_has_a_line_for_everybody():
    lines = compare(two(), [photos(1, 48)], [paintings(1, 40)], encoder=ENCODER)
    head, blend, invert = table(lines).splitlines()
    assert head.split()[:3] == ["model", "content_loss", "style_loss"]
    assert blend.startswith("blend")
    assert blend.endswith("untrained")
    assert invert.split()[0] == "invert"


@pytest.mark.skipif(not CLEAR.exists(), reason="the system does not tell a process's peak of memory")
def test_the_peak_is_that_of_the_block_alone():
    with peak(torch.device("cpu")) as large:
        torch.ones(16 << 20)
    with peak(torch.device("cpu")) as small:
        torch.ones(1024)
    assert large.mib is not None
    assert small.mib is not None
    assert 48 < large.mib < 256
    assert small.mib < large.mib / 3


@pytest.mark.skipif(not CLEAR.exists(), reason="the system does not tell a process's peak of memory")
def test_memory_that_an_earlier_block_has_freed_hides_nothing_of_a_later_one():
    """Pieces so small that the allocator keeps them, below one that is still needed."""
    found, kept = [], []
    for _ in range(2):
        with peak(torch.device("cpu")) as memory:
            pieces = [torch.ones(16 << 10) for _ in range(1024)]
            kept.append(torch.ones(16 << 10))
            del pieces
        assert memory.mib is not None
        found.append(memory.mib)
    assert min(found) > 32, "of 64 MiB"


def test_a_sheet_keeps_proportions_and_wraps_its_rows():
    wide = photos(1, 64)[..., :32, :]
    sheet = contact_sheet([[Cell(wide, "a")] * 3, [Cell(photos(1, 64), "b", 40 * "long ")]], columns=2)
    heights = [TILE_PX // 2, TILE_PX // 2, TILE_PX]
    assert sheet.width == 2 * (TILE_PX + GAP_PX) + GAP_PX
    assert sheet.height == sum(heights) + 3 * (CAPTION_PX + GAP_PX) + GAP_PX
    beside = sheet.crop((GAP_PX + TILE_PX, sheet.height - TILE_PX - CAPTION_PX - GAP_PX, sheet.width, sheet.height))
    assert beside.getextrema() == ((255, 255),) * 3, "a caption stays under its picture"


def test_a_tall_picture_takes_no_more_of_a_sheet_than_a_square():
    tall = photos(1, 512)[..., :128]
    sheet = contact_sheet([[Cell(tall, "a"), Cell(photos(1, 64), "b")]])
    assert sheet.height == TILE_PX + CAPTION_PX + 2 * GAP_PX
    assert thumbnail(tall).shape == (1, 3, TILE_PX, TILE_PX // 4)
    assert thumbnail(photos(1, 64)).shape == (1, 3, 64, 64), "nothing is scaled up"


def test_a_sheet_of_many_pictures_gets_wider_before_it_is_too_long_for_a_jpeg(monkeypatch: pytest.MonkeyPatch):
    assert MAX_SIDE_PX[".jpg"] >= MOST_ROWS * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX
    monkeypatch.setattr("stylemodels.sheet.MOST_ROWS", 7)
    sheet = contact_sheet([[Cell(photos(1, 16), "a")] * 9] * 3, columns=4)
    assert sheet.height == 2 * 3 * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX
    assert sheet.width == 5 * (TILE_PX + GAP_PX) + GAP_PX


def test_large_pictures_are_brought_down_before_an_encoder_sees_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylemodels.comparison.MOST_PX", 64 * 64)
    blend = model_of(Blend)
    wide = torch.cat([paintings(1, 64)] * 4, dim=3)
    seen: list[int] = []
    handle = ENCODER.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1] * given[0].shape[-2]))
    compare([Contestant("blend", blend)], [photos(1, 128)], [wide], encoder=ENCODER)
    handle.remove()
    assert isinstance(blend.task, Blend)
    ((content, (style,)),) = blend.task.given
    assert content.shape[-2:] == (128, 128), "drawn as large as was asked for"
    assert style.image.shape[-2:] == (32, 128)
    assert max(seen) == 64 * 64


class Nothing(Invert):
    """Draws no numbers."""

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        return Picture(content / 0 * 0)


def test_who_draws_no_numbers_is_named():
    with pytest.raises(ValueError, match="nothing: it drew values that are not numbers"):
        compare([Contestant("nothing", model_of(Nothing))], [photos(1, 48)], [paintings(1, 40)], encoder=ENCODER)


def test_a_strip_too_long_to_be_held_is_refused_before_it_is_scaled():
    with pytest.raises(ValueError, match="size: 81920 x 4096 px would be drawn"):
        compare(two(), [photos(1, 640)[..., :32, :]], [paintings(1, 40)], encoder=ENCODER, size=4096)


def test_the_command_writes_sheet_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for task in ("adain/train", "johnson/train"):
        method, name = find_task(task)
        write_model(tmp_path / method.slug / "model", small_task(task), method, name)
    save_picture(photos(1, 64), tmp_path / "photo.png")
    save_picture(paintings(1, 64), tmp_path / "painting.png")

    models = [str(tmp_path / "adain" / "model"), f"fast={tmp_path / 'johnson' / 'model'}"]
    pictures = [f"--content={tmp_path / 'photo.png'}", f"--style={tmp_path / 'painting.png'}", "--size=48"]
    told = ["--note=fast=not trained", "--set=adain:alpha=0.5", "--encoder=random", f"--out={tmp_path / 'out'}"]

    status = main(["compare", *models, *pictures, *told])

    assert status == 0
    lines = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(line["name"], line["method"], line["note"]) for line in lines] == [
        ("adain", "adain/train", ""),
        ("fast", "johnson/train", "not trained"),
    ]
    assert load_picture(tmp_path / "out" / "fast-1-1.png").shape[-2:] == (48, 48)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 4 * (TILE_PX + GAP_PX) + GAP_PX
    assert "not trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [
        ("mine=run/model", "mine", "run/model"),
        ("run/model", "run", "run/model"),
        ("runs/lr=0.1/model", "lr=0.1", "runs/lr=0.1/model"),
    ],
)
def test_a_model_has_the_name_that_it_was_given_or_its_folder_s(text: str, name: str, place: str):
    assert named(text) == (name, place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wct-small", "wct-small"], "two have one name"),
        (["nothing"], "no built-in model 'nothing'"),
        (["wct-small", "--note", "x=y"], "--note x=y"),
        (["wct-small", "--set", "x:alpha=1"], "there is no 'x'"),
        (["wct-small", "--set", "alpha"], "--set alpha"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    save_picture(photos(1, 64), tmp_path / "photo.png")
    pictures = ["--content", str(tmp_path / "photo.png"), "--style", str(tmp_path / "photo.png")]
    assert main(["compare", *arguments, *pictures, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
