"""The flexible convolutional solver: losses, training and settings; checks 7 to 10 and 12 of paper 11.

Checks 1, 4 and 5 are in test_style_filters.py too, 2 to 6 in test_unrolled.py, 11 in test_matting.py and
test_proximal.py; what a finished model draws is in test_solver_drawing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.distributed import Group
from stylemodels.methods.solver import absolute_variation, whole
from tests.stylemodels.published import UNMOVED
from tests.stylemodels.solver_models import mixing_sweep, solver, style_energy, trained
from tests.stylemodels.toy import advance, batch_of, paintings, photos, small_run


def seen(task: Any, images: Tensor) -> dict[str, np.ndarray]:
    """Features over kappa, positions as rows: tap -> (N, n, c)."""
    features = task.encoder(images, task.kappa.taps)
    return {
        tap: values.flatten(2).transpose(1, 2).numpy() / float(kappa)
        for (tap, values), kappa in zip(features.items(), task.kappa.rms, strict=True)
    }


def losses_in_numpy(task: Any, output: Tensor, content: Tensor, style: Tensor) -> dict[str, float]:
    c = task.config
    out, own, painted = (seen(task, images) for images in (output, content, style))
    style_loss = 0.0
    for tap, factor in zip(task.style_taps, c.style_layer_weights, strict=True):
        for mine, other in zip(out[tap], painted[tap], strict=True):
            channels = mine.shape[1]
            difference = mine.T @ mine / len(mine) - other.T @ other / len(other)
            weight = c.style_weight * channels * factor
            style_loss += weight / channels**2 * float((difference**2).sum()) / len(out[tap])
    content_loss = sum(float(((out[tap] - own[tap]) ** 2).mean()) for tap in task.content_taps)
    return {"content_loss": c.content_weight * content_loss, "style_loss": style_loss}


def test_check_8_the_terms_are_those_of_numpy():
    """Check 8, also for the pictures before the last, and with crops of two sizes."""
    run = small_run(
        "solver/train",
        n_steps=3,
        content_layers=["relu3_1", "relu4_1"],
        content_weight=0.7,
        style_layer_weights=[1.0, 0.5, 0.0, 2.0],
        deep_supervision=0.25,
        tv_weight=0.3,
        style_size=48,
        load_size=48,
        photo_style_fraction=0.0,
    )
    advance(run, 3)
    task, batch = run.task, batch_of(run.streams(), 3)
    with torch.no_grad():
        terms = task(batch)
        grams = task.grams(batch["style"])
        pictures = list(task.solver(batch["content"], whole(grams, "sqrt")))
    expected = [losses_in_numpy(task, picture, batch["content"], batch["style"]) for picture in pictures]
    across, down = (np.abs(np.diff(pictures[-1].numpy(), axis=axis)).mean() for axis in (3, 2))
    early = sum(sum(terms.values()) for terms in expected[:2])
    assert expected[2]["content_loss"] > 0
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        expected[2] | {"tv_loss": 0.3 * (across + down), "early_loss": 0.25 * early}, rel=1e-4
    )


def test_check_8_a_picture_has_no_style_loss_to_itself_whatever_its_size():
    task = solver()
    style = paintings(1, 64)
    assert style_energy(task, style, style) == 0
    tiled = style.repeat(1, 1, 2, 2)
    other = style_energy(task, photos(1, 64), style)
    assert style_energy(task, tiled, style) < 0.02 * other, "only what lies at the seams differs"


def test_kappa_is_the_root_mean_square_of_the_first_batch_and_stays():
    run = small_run("solver/train", style_size=48, load_size=48)
    batch = batch_of(run.streams())
    run.advance(batch)
    first = run.task.kappa.rms.clone()
    taps = run.task.kappa.taps
    squares = [[float(f.square().mean()) for f in run.task.encoder(images, taps).values()] for images in batch.values()]
    assert_close(first, torch.tensor(squares).mean(0).sqrt())
    advance(run, 1)
    assert torch.equal(run.task.kappa.rms, first)


def test_check_7_after_two_steps_everything_in_every_g_has_a_gradient_and_the_encoder_has_none():
    run = small_run("solver/train", n_steps=3)
    learned = dict(run.task.solver.named_parameters())

    def moved(step: int) -> set[str]:
        terms = run.task(batch_of(run.streams(), step))
        gradients = run.task.gradients(torch.stack(list(terms.values())).sum()).values
        assert gradients.keys() == set(learned.values())
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        return {name for name, parameter in learned.items() if gradients[parameter].count_nonzero()}

    useless = tuple(UNMOVED["solver/train"])
    assert moved(0) == {f"g.{n}.b.k.0.weight" for n in range(3)}, "K_1, which is zero, and nothing before it"
    advance(run, 2)
    assert moved(2) >= {name for name in learned if not name.endswith(useless)}
    assert all(parameter.grad is None for parameter in run.task.encoder.parameters())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 6), (0.5, 12), (1.0, 24)])
def test_photos_are_styles_as_often_as_asked_for_whoever_draws_the_pair(share: float, expected: int):
    task = solver(photo_style_fraction=share, batch_size=4)
    assert ("photo_style" in task.streams()) == (share > 0)
    found = []
    for size in (1, 2):
        photo = torch.ones(4 // size, 3, 8, 8)
        batch = {"style": torch.zeros_like(photo)} | ({"photo_style": photo} if share > 0 else {})
        of_size = []
        for step in range(6):
            task.step = step
            for rank in range(size):
                task.group = Group(rank, size)
                of_size += task.styles_of(batch)[:, 0, 0, 0].tolist()
        found.append(of_size)
    assert sum(found[0]) == expected
    assert found[0] == found[1]


def test_the_rate_follows_a_cosine_down_to_its_end():
    task = solver(lr=1e-3, lr_final=1e-4, steps=100)
    rates = []
    for step in (0, 25, 50, 100):
        task.begin("train", step)
        rates.append(1e-3 * task.lr_scale("solver"))
    middle = 1e-4 + 9e-4 * (1 + np.cos(np.pi / 4)) / 2
    assert rates == pytest.approx([1e-3, middle, 5.5e-4, 1e-4])


def test_a_step_is_clipped_and_says_how_long_its_gradient_was():
    run = small_run("solver/train", grad_clip=0.01)
    (terms,) = advance(run, 1)
    assert terms["gradient_norm"] > 0.01
    moments = [state["exp_avg"] for state in run.task.active["solver"].state.values()]
    clipped = torch.stack([moment.norm() for moment in moments]).norm() / 0.1  # Adam's first moment
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)


def test_the_total_variation_is_absolute():
    ramp = torch.arange(4.0).expand(1, 3, 5, 4)
    assert absolute_variation(ramp).item() == absolute_variation(-ramp).item() == 1.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"style_layers": ["relu1_1", "relu3_1"]}, r"style_layers: relu1_1, relu3_1 were given"),
        ({"style_layers": []}, "style_layers: none"),
        ({"content_layers": []}, "content_layers: none was given"),
        ({"widths": [8, 8, 8]}, "widths: 3 were given, one for each of 4"),
        ({"style_layer_weights": [1.0]}, "style_layer_weights: 1 were given"),
        ({"n_steps": 0}, "n_steps"),
        ({"widths": [8, 8, 8, 7]}, "widths"),
        ({"content_size": 40}, "content_size"),
        ({"b_mode": "adjunct"}, "b_mode"),
    ],
)
def test_check_12_settings_that_cannot_be_are_refused(settings: Mapping[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        solver(**settings)


@pytest.mark.parametrize("settings", [{"b_mode": "separate"}, {"b_mode": "accumulate"}, {"share_steps": True}])
def test_every_form_learns(settings: Mapping[str, Any]):
    run = small_run("solver/train", **settings)
    batch = batch_of(run.streams())
    losses = [run.advance(batch)["style_loss"] for _ in range(20)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_fifth_tap_is_drawn_at_32_px():
    run = small_run(
        "solver/train", style_layers=[f"relu{n}_1" for n in range(1, 6)], widths=[8] * 5, style_layer_weights=[1] * 5
    )
    advance(run, 2)
    assert len(run.task.solver.g[0].f.convs) == 5


def test_check_9_in_short_the_style_loss_falls_below_the_content_s():
    made = trained(70, 32, batch_size=4)
    assert all(np.isfinite(list(step.values())).all() for step in made.terms)
    assert sum(made.ratios[-20:]) / 20 < 0.9


@pytest.mark.slow
def test_check_9_after_400_steps_pictures_have_their_style_and_keep_their_content():
    made = trained(400, 64, batch_size=4)
    assert sum(made.ratios[-30:]) / 30 <= 0.8
    assert sum(step["content_loss"] for step in made.terms[-30:]) / 30 < 0.5
    first, *_ = mixing_sweep(made.task, 4, 64)
    assert first[0] < first[1], "the right style is nearer than a wrong one"


@pytest.mark.slow
def test_check_10_a_mixture_goes_monotonically_from_one_style_to_the_other():
    """Check 10, as means of 24 pairs: between similar styles a mixture can be the nearer one to either."""
    first, second = zip(*mixing_sweep(trained(400, 64, batch_size=4).task, 24, 64), strict=True)
    assert list(first) == sorted(first)
    assert list(second) == sorted(second, reverse=True)
