"""`python -m stylemodels evaluate` and `convert`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stylemodels.__main__ import main
from stylemodels.encoders import load_encoder
from stylemodels.export import write_model
from stylemodels.images import load_picture
from stylemodels.methods import find_task
from stylemodels.quality import measure
from stylemodels.stylize import load_model
from tests.stylemodels.toy import paintings, photos, small_task, write_pictures


@pytest.fixture
def place(tmp_path: Path) -> Path:
    method, task = find_task("adain/train")
    write_model(tmp_path / "model", small_task("adain/train"), method, task)
    write_pictures(tmp_path / "photos", photos(3, 48))
    write_pictures(tmp_path / "paintings", paintings(2, 48))
    return tmp_path


def arguments(place: Path, *more: str) -> list[str]:
    names = {"--model": "model", "--content": "photos", "--style": "paintings"}
    given = [word for flag, name in names.items() for word in (flag, str(place / name))]
    return ["evaluate", *given, "--size", "0", "--encoder", "random", *more]


def test_pairs_in_name_order_are_drawn_and_measured(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(place, "--json", str(place / "rows.json"))) == 0
    printed = capsys.readouterr().out
    rows = json.loads((place / "rows.json").read_text())
    assert {row["pair"] for row in rows} == {"1", "2", "mean"}
    own = next(row for row in rows if row["pair"] == "2" and row["picture"] == "adain/train")
    photo, painting = load_picture(place / "photos" / "1.png"), load_picture(place / "paintings" / "1.png")
    with torch.inference_mode():
        encoder = load_encoder("random")
        itself = measure(photo, photo, painting, encoder)
    content = next(row for row in rows if row["pair"] == "2" and row["picture"] == "content itself")
    assert content["measures"]["style_loss"] == pytest.approx(itself.style_loss, rel=1e-4)
    assert content["measures"]["content_loss"] == pytest.approx(0, abs=1e-6)
    assert own["measures"]["content_loss"] > 0
    assert f"2: {place / 'photos' / '1.png'} in the style of {place / 'paintings' / '1.png'}" in printed
    assert f"{own['measures']['style_loss']:.4f}" in printed


def test_optimising_stands_beside_the_model_when_asked_for(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(place, "--pairs", "1", "--gatys-steps", "2")) == 0
    assert "gatys, 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--content", "{place}/nowhere"], "nowhere is not a folder"),
        (["--style", "{place}/model"], "no picture under it"),
        (["--pairs", "0"], "--pairs 0"),
        (["--size", "-1"], "--size -1"),
        (["--size", "20"], "at least 32"),
        (["--model", "unheard-of"], "unheard-of"),
        (["--gatys-steps", "-3"], "--gatys-steps -3"),
    ],
)
def test_a_mistake_ends_with_one_line_and_status_1(
    place: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
):
    assert main(arguments(place, *(word.format(place=place) for word in change))) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.rstrip().count("\n") == 0, "one line"


def test_published_weights_become_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With random values in the published shapes; the real ones are checked where their files are."""
    method, task_name = find_task("collaborative-distillation/distill")
    task = _published_shapes(tmp_path / "downloads")
    assert main(["convert", "16x", str(tmp_path / "downloads"), "--out", str(tmp_path / "wct-16x")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "wct-16x")
    model = load_model(tmp_path / "wct-16x")
    assert model.name == f"{method.slug}/{task_name}"
    for name, tensor in task.items():
        assert torch.equal(model.task.model_tensors()[name], tensor)


def _published_shapes(folder: Path) -> dict[str, torch.Tensor]:
    from stylemodels.method import Given
    from stylemodels.methods.collaborative_distillation import Distill
    from stylemodels.settings import build
    from stylemodels.stylize import outline

    config = build(Distill.Config, {"final_relu": True})
    task = Distill(config, Given(Distill.needs, encoder=outline(config.encoder)))
    folder.mkdir()
    for stage in config.stages:
        for kind, networks in (("SE", task.encoders), ("SD", task.decoders)):
            torch.save({"model": networks[str(stage)].state_dict()}, folder / f"{stage}{kind}.pth")
    return task.model_tensors()


@pytest.mark.parametrize(
    ("words", "message"), [(["32x", "."], "32x"), (["16x", "nowhere"], "nowhere"), (["16x", "."], "SE.pth")]
)
def test_what_cannot_be_converted_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    name, folder = words
    assert main(["convert", name, str(tmp_path / folder), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
