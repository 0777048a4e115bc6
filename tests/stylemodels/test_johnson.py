"""Johnson et al.: one network for one painting."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from stylemodels.images import resize
from stylemodels.method import Given, NoControls
from stylemodels.methods.johnson import Train, TrainConfig
from stylemodels.train import build_task
from tests.stylemodels.toy import advance, batch_of, paintings, photos, small_run, small_task

TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


def test_the_loss_is_the_perceptual_one_and_the_total_variation():
    task = small_task("johnson/train", tv_weight=3.0)
    assert isinstance(task, Train)
    batch = batch_of(task.streams())
    task.calibrate(batch)
    terms = task(batch)
    with torch.no_grad():
        output = task.network(batch["content"])
        grams = task.loss.style_target(resize(paintings(1, 48, seed=2), 32, 32))
        expected = task.loss(output, task.loss.content_target(batch["content"]), grams)
    assert set(terms) == {"content_loss", "style_loss", "tv_loss"}
    for name, value in expected.items():
        assert_close(terms[name].detach(), value, rtol=1e-4, atol=1e-6)
    down, across = output.diff(dim=2), output.diff(dim=3)
    assert_close(terms["tv_loss"].detach(), 3.0 * ((down**2).mean() + (across**2).mean()))


def test_the_style_s_shorter_side_is_scaled_and_its_aspect_kept():
    task = small_task("johnson/train", style_size=48)
    assert isinstance(task, Train)
    wide = resize(paintings(1, 96), 64, 128)
    task.given = Given(task.needs, encoder=task.encoder, style_image=wide)
    task.calibrate({"content": photos(1, 32)})
    expected = task.loss.style_target(resize(wide, 48, 96))
    for tap in TAPS:
        assert torch.equal(task.get_buffer(f"gram_{tap}"), expected[tap])


def test_the_style_travels_in_the_checkpoint():
    run = small_run("johnson/train")
    advance(run, 1)
    weights = run.snapshot().weights
    assert {f"gram_{tap}" for tap in TAPS} <= set(weights)
    assert all(weights[f"gram_{tap}"].abs().sum() > 0 for tap in TAPS)


def test_without_a_style_picture_there_is_nothing_to_learn():
    with pytest.raises(ValueError, match="style_image: none was given"):
        build_task(Train, TrainConfig(encoder="random"), seed=0)


def test_a_short_training_brings_the_style():
    run = small_run("johnson/train", tv_weight=0.0)
    losses = [terms["style_loss"] for terms in advance(run, 40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@torch.inference_mode()
def test_the_onnx_form_is_the_network():
    task = small_task("johnson/train")
    assert isinstance(task, Train)
    content = photos(1, 32)
    picture = task.stylize(content, [], NoControls()).image
    assert picture is not None
    assert torch.equal(task.onnx_form()(content), picture)
