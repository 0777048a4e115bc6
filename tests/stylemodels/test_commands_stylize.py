"""`python -m stylemodels stylize`: one picture, several styles, folders, and what it says about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from stylemodels.__main__ import main
from stylemodels.export import write_model
from stylemodels.images import load_picture, save_picture
from stylemodels.method import Regions, Style
from stylemodels.methods import find_task
from stylemodels.stylize import Model, load_model
from tests.stylemodels.toy import paintings, photos, small_task, write_pictures

ROUNDED = 0.6 / 255


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model of `linear`, a photo of 48 x 40 px, two paintings."""
    method, task = find_task("linear/train")
    write_model(tmp_path / "model", small_task("linear/train"), method, task)
    save_picture(photos(1, 48)[0, :, :40], tmp_path / "photo.png")
    write_pictures(tmp_path / "paintings", paintings(2, 40))
    return tmp_path


def model_of(place: Path) -> Model:
    return load_model(place / "model")


def style(place: Path, number: int, weight: float = 1.0) -> Style:
    return Style(load_picture(place / "paintings" / f"{number}.png"), weight)


def stylize(place: Path, *arguments: str, content: str = "photo.png", out: str = "out.png") -> int:
    model, content, out = (str(place / name) for name in ("model", content, out))
    return main(["stylize", "--model", model, "--content", content, "--out", out, *arguments])


def painting(place: Path, number: int, weight: str = "") -> list[str]:
    return ["--style", f"{place / 'paintings' / str(number)}.png{weight}"]


def drawn(place: Path, name: str = "out.png") -> Tensor:
    return load_picture(place / name)


def test_one_picture_is_what_the_model_draws(place: Path, capsys: pytest.CaptureFixture[str]):
    assert stylize(place, *painting(place, 0), "--set", "alpha=0.5") == 0
    expected = model_of(place).stylize(load_picture(place / "photo.png"), [style(place, 0)], {"alpha": 0.5})
    assert_close(drawn(place), expected, rtol=0, atol=ROUNDED)
    out, err = capsys.readouterr()
    assert out.strip() == str(place / "out.png")
    assert "100%" in err


def test_several_styles_are_mixed_by_the_weights_behind_their_names(place: Path):
    assert stylize(place, *painting(place, 0, ":3"), *painting(place, 1, ":1")) == 0
    expected = model_of(place).stylize(
        load_picture(place / "photo.png"), [style(place, 0, 0.75), style(place, 1, 0.25)]
    )
    assert_close(drawn(place), expected, rtol=0, atol=ROUNDED)


def test_the_first_mask_is_the_first_style_s_and_the_next_style_has_the_rest(place: Path):
    mask = torch.zeros(3, 40, 48)
    mask[:, :, :20] = 1
    save_picture(mask, place / "mask.png")
    assert stylize(place, *painting(place, 0), *painting(place, 1), "--mask", str(place / "mask.png")) == 0
    styles = [Style(style(place, 0).image, mask=mask[None, :1]), Style(style(place, 1).image, mask=1 - mask[None, :1])]
    expected = model_of(place).stylize(load_picture(place / "photo.png"), styles)
    assert_close(drawn(place), expected, rtol=0, atol=ROUNDED)


def test_regions_of_one_colour_belong_together(place: Path):
    red, blue = (255, 0, 0), (0, 0, 255)
    over_content, over_style = Image.new("RGB", (48, 40), red), Image.new("RGB", (40, 40), blue)
    over_content.paste(blue, (0, 0, 24, 40))
    over_style.paste(red, (0, 0, 40, 20))
    over_content.save(place / "content-labels.png")
    over_style.save(place / "style-labels.png")
    labels = ["--content-labels", str(place / "content-labels.png"), "--style-labels", str(place / "style-labels.png")]
    assert stylize(place, *painting(place, 0), *labels) == 0
    content, own = torch.ones(1, 1, 40, 48, dtype=torch.int64), torch.zeros(1, 1, 40, 40, dtype=torch.int64)
    content[..., :24] = 0
    own[..., :20, :] = 1
    styles = [Style(style(place, 0).image, regions=Regions(content, own))]
    expected = model_of(place).stylize(load_picture(place / "photo.png"), styles)
    assert_close(drawn(place), expected, rtol=0, atol=ROUNDED)
    assert stylize(place, *painting(place, 0), out="plain.png") == 0
    assert not torch.equal(drawn(place), drawn(place, "plain.png"))


def test_size_format_and_tiles_are_told_by_name(place: Path):
    assert stylize(place, *painting(place, 0), "--set", "size=80", "--quality", "80", out="out.webp") == 0
    assert drawn(place, "out.webp").shape == (1, 3, 80, 96)
    large = Image.open(place / "photo.png").resize((300, 280))
    large.save(place / "large.png")
    assert stylize(place, *painting(place, 0), content="large.png", out="whole.png") == 0
    assert stylize(place, *painting(place, 0), "--tile", "256", content="large.png", out="tiled.png") == 0
    assert_close(drawn(place, "tiled.png"), drawn(place, "whole.png"), rtol=0, atol=2 / 255)


def test_a_folder_is_drawn_with_its_subfolders(place: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(place / "photos", photos(2, 32))
    write_pictures(place / "photos" / "more", photos(1, 36, seed=1))
    write_pictures(place / "photos" / ".hidden", photos(1, 32))
    (place / "photos" / "notes.txt").write_text("not a picture")
    assert stylize(place, *painting(place, 0), "--format", "jpg", content="photos", out="drawn") == 0
    results = sorted(path.relative_to(place / "drawn").as_posix() for path in (place / "drawn").rglob("*.*"))
    assert results == ["0.jpg", "1.jpg", "more/0.jpg"]
    assert drawn(place, "drawn/more/0.jpg").shape == (1, 3, 36, 36)
    out, err = capsys.readouterr()
    assert sorted(out.split()) == [str(place / "drawn" / name) for name in results]
    assert "3 of 3 pictures" in err


def test_only_with_resume_are_results_left_alone(place: Path):
    write_pictures(place / "photos", photos(3, 32))
    assert stylize(place, *painting(place, 0), content="photos", out="drawn") == 0
    first = {path.name: path.read_bytes() for path in (place / "drawn").iterdir()}
    (place / "drawn" / "1.png").unlink()
    (place / "drawn" / "2.png").write_bytes(b"mine")
    assert stylize(place, *painting(place, 0), "--resume", content="photos", out="drawn") == 0
    assert (place / "drawn" / "1.png").read_bytes() == first["1.png"]
    assert (place / "drawn" / "2.png").read_bytes() == b"mine"
    assert stylize(place, *painting(place, 0), content="photos", out="drawn") == 0
    assert {path.name: path.read_bytes() for path in (place / "drawn").iterdir()} == first


def test_one_bad_picture_does_not_stop_a_folder(place: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(place / "photos", photos(2, 32))
    (place / "photos" / "0.png").write_bytes(b"broken")
    assert stylize(place, *painting(place, 0), content="photos", out="drawn") == 1
    assert [path.name for path in (place / "drawn").iterdir()] == ["1.png"]
    err = capsys.readouterr().err
    assert str(place / "photos" / "0.png") in err
    assert "1 of 2 pictures" in err


def test_results_inside_the_folder_are_not_drawn_again(place: Path):
    write_pictures(place / "photos", photos(1, 32))
    for _ in range(2):
        assert stylize(place, *painting(place, 0), content="photos", out="photos/drawn") == 0
    assert [path.name for path in (place / "photos" / "drawn").iterdir()] == ["0.png"]


def test_models_of_the_package_are_known_by_name(place: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--content", str(place / "photo.png"), "--out", str(place / "out.png"), *painting(place, 0)]
    assert main(["stylize", "--model", "gatys", *arguments, "--set", "steps=2", "size=32"]) == 0
    assert drawn(place).shape == (1, 3, 32, 38)
    assert main(["stylize", "--model", "unheard-of", *arguments]) == 1
    err = capsys.readouterr().err
    assert "unheard-of" in err
    assert "gatys" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "alpha=2"], "alpha: 2 was given"),
        (["--set", "alfa=1"], "alfa"),
        (["--set", "alpha"], "write NAME=VALUE"),
        (["--tile", "100"], "tile: 100 was given"),
        (["--quality", "0"], "--quality 0"),
        (["--bits", "16", "--out", "{place}/out.jpg"], "out.jpg"),
        (["--out", "{place}/out.gif"], "out.gif: pictures are written as"),
        (["--out", "{place}/photo.png"], "the content itself"),
        (["--out", "{place}/nowhere/out.png"], "nowhere"),
        (["--content", "{place}/nowhere.png"], "nowhere.png"),
        (["--content", "{place}/model"], "no picture under it"),
        (["--content", "{place}/paintings", "--out", "{place}/paintings"], "the content itself"),
        (["--content", "{place}/paintings", "--out", "{place}/photo.png"], "lie in a folder"),
        (["--resume"], "--resume: only for a folder"),
        (["--format", "png"], "--format: only for a folder"),
        (["--style", "{place}/nowhere.png:2"], "nowhere.png"),
        (["--style", "{place}/paintings/1.png:-1"], "weights"),
        (["--mask", "{place}/photo.png", "--mask", "{place}/photo.png"], "--mask"),
        (["--mask", "{place}/paintings/1.png"], "style 1: mask"),
        (["--content-labels", "{place}/photo.png"], "--content-labels"),
        (["--model", "{place}/paintings"], "config.json"),
    ],
)
def test_a_mistake_ends_with_one_line_and_status_1(
    place: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
):
    assert stylize(place, *painting(place, 0), *(word.format(place=place) for word in change)) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.rstrip().count("\n") == 0, "one line"


def test_two_contents_with_one_result_are_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(place / "photos", photos(1, 32))
    save_picture(photos(1, 32)[0], place / "photos" / "0.jpg")
    assert stylize(place, *painting(place, 0), "--format", "png", content="photos", out="drawn") == 1
    assert "would both become" in capsys.readouterr().err


def test_maps_lie_in_a_folder_of_their_own_and_a_drawing_goes_on_from_another(place: Path):
    method, task = find_task("gatys/optimise")
    write_model(place / "gatys", small_task("gatys/optimise"), method, task)
    start = place / "start.png"
    save_picture(photos(1, 48, seed=8)[0, :, :40], start)
    quick = ["--set", "steps=1", "optimizer=adam", "lr=1e-6", "--model", str(place / "gatys")]
    told = ["--content", str(place / "photo.png"), "--out", str(place / "out.png"), *painting(place, 0)]

    assert main(["stylize", *told, *quick, "--init", str(start), "--maps", str(place / "maps")]) == 0

    assert_close(drawn(place), load_picture(start), rtol=0, atol=2 * ROUNDED)
    assert {path.name for path in (place / "maps").iterdir()} >= {"out-content_loss.png", "out-style_loss.png"}


def test_a_model_that_starts_from_the_content_alone_says_so(place: Path, capsys: pytest.CaptureFixture[str]):
    assert stylize(place, *painting(place, 0), "--init", str(place / "photo.png")) == 1
    assert "init_image: a model of linear/train starts from the content alone" in capsys.readouterr().err
