"""Gatys et al.: the picture is optimised, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.checkpoint import load_tensors
from stylemodels.describe import describe_method
from stylemodels.encoders import load_encoder
from stylemodels.export import write_model
from stylemodels.folder_run import FolderRun
from stylemodels.method import Style
from stylemodels.methods.gatys import METHOD, StylizeControls, Target, losses_of, optimised, range_loss, taps_of
from stylemodels.stylize import load_model
from tests.stylemodels.toy import paintings, photos, small_task

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
ENCODER = load_encoder("random")


def drawn(content: Tensor, styles: list[Style], **controls: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return optimised(ENCODER, content, styles, replace(StylizeControls(steps=12), **controls))


def total(history: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(history.values())).sum(0)


def test_the_losses_agree_with_einsum_in_float64_and_several_styles_share_the_target():
    encoder = load_encoder("random").double()
    content, picture = photos(1, 48).double(), photos(1, 48, seed=1).double()
    first, second = paintings(1, 40).double(), paintings(1, 64, seed=1).double()
    losses = losses_of(encoder, picture, content, [Style(first, 0.25), Style(second, 0.75)])

    wanted, own = (encoder(image, ["relu4_2"])["relu4_2"] for image in (content, picture))
    assert losses["content_loss"] == pytest.approx(((wanted - own) ** 2).mean().item(), rel=1e-10)
    expected = 0.0
    for tap in TAPS:
        x, a, b = (encoder(image, [tap])[tap][0] for image in (picture, first, second))
        mine, one, two = (torch.einsum("ihw,jhw->ij", f, f) / f.numel() for f in (x, a, b))
        expected += ((mine - 0.25 * one - 0.75 * two) ** 2).mean().item()
    assert losses["style_loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("encoder", "content"),
    [("vgg19", "relu4_2"), ("vgg16", "relu4_2"), ("small", "relu4_1"), ("small-narrow", "relu4_1")],
)
def test_the_taps_are_the_paper_s_or_what_stands_in_for_them(encoder: Any, content: str):
    assert taps_of(encoder) == (content, TAPS)


def test_the_gradient_is_that_of_the_loss():
    encoder = load_encoder("random").double()
    target = Target(encoder, photos(1, 32).double(), [Style(paintings(1, 32).double())])
    picture = photos(1, 32, seed=3).double().requires_grad_()
    way = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(moved: Tensor) -> Tensor:
        return torch.stack(list(target.losses(moved).values())).sum()

    (slope,) = torch.autograd.grad(loss(picture), picture)
    with torch.no_grad():
        difference = (loss(picture + 1e-7 * way) - loss(picture - 1e-7 * way)) / 2e-7
    assert_close((slope * way).sum(), difference, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("init", ["content", "noise"])
def test_the_loss_falls_and_the_result_is_a_picture(optimizer: str, init: str):
    content = photos(1, 48)[..., :41]
    picture, history = drawn(content, [Style(paintings(1, 48))], optimizer=optimizer, init=init, steps=20)
    assert picture.shape == content.shape
    assert 0 <= picture.min() <= picture.max() <= 1
    assert total(history)[-1] < 0.5 * total(history)[0]
    assert all(len(values) >= 21 and values.isfinite().all() for values in history.values())


def test_the_history_ends_with_the_losses_of_the_result():
    content, style = photos(1, 48), Style(paintings(1, 48))
    picture, history = drawn(content, [style], content_weight=2.0, style_weight=300.0, tv_weight=5.0)
    losses = losses_of(ENCODER, picture, content, [style])
    assert history["content_loss"][-1].item() == pytest.approx(2 * losses["content_loss"], rel=1e-4)
    assert history["style_loss"][-1].item() == pytest.approx(300 * losses["style_loss"], rel=1e-4)
    assert history["tv_loss"][-1] > 0
    assert history["range_loss"][-1] == 0


def test_no_steps_leave_the_content_or_the_seed_s_noise():
    content, styles = photos(1, 32), [Style(paintings(1, 32))]
    assert torch.equal(drawn(content, styles, steps=0)[0], content)
    noise = [drawn(content, styles, steps=0, init="noise", seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_what_lies_outside_of_a_picture_s_range_is_pulled_back():
    picture = torch.tensor([[-0.5, 0.0, 0.7, 1.0, 1.25]], requires_grad=True)
    loss = range_loss(picture)
    (slope,) = torch.autograd.grad(loss, picture)
    assert loss.item() == pytest.approx((0.25 + 0.0625) / 5)
    assert_close(slope, torch.tensor([[-0.2, 0.0, 0.0, 0.0, 0.1]]))


def test_it_reports_after_every_evaluation_and_works_where_gradients_are_off():
    content, style = photos(1, 32), paintings(1, 32)
    expected, _ = drawn(content, [Style(style)], steps=5)
    task = small_task("gatys/optimise")
    for off in (torch.no_grad(), torch.inference_mode()):
        shares: list[float] = []
        task.report = shares.append
        with off:
            made_inside = content + 0  # under inference_mode a tensor that can never have a gradient
            image = task.stylize(made_inside, [Style(style + 0)], StylizeControls(steps=5)).image
        assert image is not None
        assert_close(image, expected)
        assert shares[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
        assert set(shares[5:]) <= {1.0}


def test_a_model_without_a_tensor_is_written_described_and_loaded(tmp_path: Path):
    description = write_model(tmp_path, small_task("gatys/optimise"), METHOD, "optimise")
    assert description.parts == {}
    assert load_tensors(tmp_path / "model.safetensors") == {}
    assert description.facts == {"taps": {"content": "relu4_2", "style": list(TAPS)}}
    content, styles = photos(1, 48), [Style(paintings(1, 40))]
    picture = load_model(tmp_path).stylize(content, styles, {"steps": 3, "style_weight": 20})
    assert picture.shape == content.shape
    assert not torch.equal(picture, content)


def test_it_is_described_as_what_trains_nothing():
    task = describe_method(METHOD)["tasks"]["optimise"]
    assert (task["trains"], task["phases"], task["parameters"], task["datasets"]) == (False, [], {}, {})
    assert list(task["config"]["properties"]) == ["encoder"]
    assert "optimises" in str(small_task("gatys/optimise").onnx_form())


def test_there_is_nothing_to_train(tmp_path: Path):
    with pytest.raises(ValueError, match=r"gatys/optimise: there is nothing to train.*stylize"):
        FolderRun("gatys/optimise", {}, folders={}, out=tmp_path)


@pytest.mark.parametrize(("name", "side"), [("content", 16), ("style", 1)])
def test_pictures_that_are_too_small_are_refused(name: str, side: int):
    images = {"content": photos(1, 32), "style": paintings(1, 32), name: torch.rand(1, 3, side, 64)}
    with pytest.raises(ValueError, match=rf"{name}: 64 x {side} px were given, sides must be at least 32 px"):
        drawn(images["content"], [Style(images["style"])])


@pytest.mark.parametrize("content", [torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 320), 0.5)])
@pytest.mark.parametrize("style", [torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 400, 32)])
def test_constant_pictures_and_strips_give_finite_pictures(content: Tensor, style: Tensor):
    assert drawn(content, [Style(style)], steps=4)[0].isfinite().all()
