"""ETNet's training against the published method: checks 1, 3, 7, 8, 9 and 10.

Checks 4, 5 and 8's terms are in test_error_encoder.py, 1, 4 and 6 by block in test_error_transition.py, 2, 11 and 12 in
test_etnet_drawing.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.describe import on_meta_device
from stylemodels.distributed import Group
from stylemodels.error_encoder import DEEPEST, TAPS, coarser, signed
from stylemodels.method import Base, Style
from stylemodels.methods.etnet import Train
from stylemodels.train import Run
from stylemodels.vgg import VGG19_DEPTHS, VGG_WIDTHS, named_convolutions
from tests.stylemodels.toy import (
    advance,
    base_of,
    fixed_batch,
    paintings,
    photos,
    same,
    small_run,
    small_task,
)

NAME = "etnet/train"


def etnet(**settings: Any) -> Train:
    task = small_task(NAME, **settings)
    assert isinstance(task, Train)
    return task


def in_phase(task: Train, level: int) -> Train:
    task.begin(f"level{level}", 0)
    return task


# --- 1, 3 ------------------------------------------------------------------------------------------------------------


def test_check_1_the_pyramid_and_the_encoder_have_the_published_numbers_of_parameters():
    task = on_meta_device(Train)
    assert isinstance(task, Train)
    counts = {name: sum(p.numel() for p in level.parameters()) for name, level in task.levels.items()}
    assert counts == {"level3": 7_065_667, "level2": 8_586_819, "level1": 10_107_971}
    convolutions = named_convolutions(VGG19_DEPTHS, VGG_WIDTHS)
    upto = list(convolutions)[: list(convolutions).index("conv4_1") + 1]
    encoder = sum(p.numel() for name in upto for p in convolutions[name].parameters())
    assert encoder + 12 == 3_505_740, "the published encoder begins with a 1 x 1 convolution; ours subtracts a mean"


def silent(task: Train) -> Train:
    """With residuals of exactly 0: the last convolution of every level gives nothing."""
    with torch.no_grad():
        for level in task.levels.values():
            level.decode1[-1].weight.zero_()
            level.decode1[-1].bias.zero_()
    return task


def test_check_3_without_residuals_a_blank_start_stays_blank_and_a_picture_is_squashed_level_by_level():
    task = silent(etnet(levels=[3, 2, 1], content_size=64, style_size=64))
    content, styles = photos(1, 64), [Style(paintings(1, 64))]
    blank = task.stylize(content, styles, task.Controls()).maps
    assert all(torch.equal(blank[f"level{k}_out"], torch.full_like(blank[f"level{k}_out"], 0.5)) for k in (3, 2, 1))

    task.init_image = photos(1, 64, seed=9)
    _, passed = task.passed(content, styles, task.Controls(), (3, 2, 1))
    expected = signed(task.init_image)[..., ::4, ::4]
    for level in (3, 2, 1):
        assert torch.equal(passed[level].start, expected)
        assert torch.equal(passed[level].image, torch.tanh(expected))
        expected = torch.tanh(expected).repeat_interleave(2, -1).repeat_interleave(2, -2)


# --- 7 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [3, 2, 1])
def test_check_7_the_gradient_reaches_all_of_the_level_in_training_and_nothing_else(level: int):
    task = in_phase(etnet(levels=[3, 2, 1], content_size=64, style_size=64), level)
    gradients = task.gradients(torch.stack(list(task(fixed_batch(task)).values())).sum())
    own = dict(task.levels[f"level{level}"].named_parameters())
    assert {id(p) for p in gradients.values} == {id(p) for p in own.values()}
    for name, parameter in own.items():
        assert gradients.values[parameter].isfinite().all()
        if not name.endswith("g.bias"):  # the softmax takes it off again
            assert gradients.values[parameter].any(), name
    others = [p for n, p in task.named_parameters() if not n.startswith(f"levels.level{level}.")]
    assert not any(p.requires_grad for p in others)
    if level == 1:
        assert [len(list(task.levels[name].parameters())) for name in ("level3", "level2")] == [87, 107]


# --- 8 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [2, 1])
def test_a_level_is_trained_on_what_the_levels_before_it_draw(level: int):
    task = in_phase(etnet(levels=[3, 2, 1], content_size=64, style_size=64), level)
    batch = fixed_batch(task)
    targets, passed = task.passed(batch["content"], [Style(batch["style"])], task.Controls(), task.begun())
    assert list(passed) == list(range(3, level - 1, -1))
    assert_close(dict(task(batch)), task.loss_terms(level, passed[level].image, targets), rtol=1e-4, atol=0)


def gram_of(features: Tensor) -> np.ndarray:
    values = features.detach().double().numpy()
    gram: np.ndarray = np.einsum("nchw,ndhw->ncd", values, values) / (values.shape[2] * values.shape[3])
    return gram


def expected_terms(task: Train, level: int, images: Sequence[Tensor], *, official: bool) -> tuple[float, float]:
    """Equations 7 and 8 by loops over the scales j and the taps i, from pictures in [0, 1]: output, content, style."""
    content = style = extra = 0.0
    for j in range(level, 4):
        step = 2 ** (j - level)
        own, its, theirs = (task.encoder(image[..., ::step, ::step], TAPS) for image in images)
        content += float(((own[DEEPEST] - its[DEEPEST]).double() ** 2).mean())
        for tap in TAPS if official or j == level else (DEEPEST,):
            style += ((gram_of(own[tap]) - gram_of(theirs[tap])) ** 2).mean()
        if j == level:
            extra = ((gram_of(own[TAPS[0]]) - gram_of(theirs[TAPS[0]])) ** 2).mean()
    if not official:
        return content, style
    divisor, weight = {3: (4, 0), 2: (2, 6), 1: (1, 10)}[level]
    return content, style / divisor + weight * extra


@pytest.mark.parametrize("form", ["slides", "official"])
@pytest.mark.parametrize("level", [3, 2, 1])
def test_check_8_the_loss_is_that_of_an_independent_formula(level: int, form: str):
    task = etnet(levels=[3, 2, 1], content_size=64, style_size=64, loss_form=form, tv_weight=[3, 4, 5])
    images = photos(2, 64, seed=1), photos(2, 64), paintings(2, 64)
    signs = [signed(image) for image in images]
    targets = {
        k: task.measure.target(coarser(signs[1], k - level), [Style(coarser(signs[2], k - level))])
        for k in range(3, level - 1, -1)
    }
    terms = task.loss_terms(level, signs[0], targets)
    content, style = expected_terms(task, level, images, official=form == "official")
    assert_close(float(terms["content_loss"]), content, rtol=1e-4, atol=0)
    assert_close(float(terms["style_loss"]), {3: 2, 2: 5, 1: 8}[level] * style, rtol=1e-4, atol=0)
    if form == "official":
        assert "tv_loss" not in terms
        return
    x = signs[0].double().numpy()
    variation = (np.diff(x, axis=2) ** 2).mean() + (np.diff(x, axis=3) ** 2).mean()
    assert_close(float(terms["tv_loss"]), float({3: 3, 2: 4, 1: 5}[level] * variation), rtol=1e-4, atol=0)
    flat = task.loss_terms(level, torch.full_like(signs[0], 0.3), targets)
    assert flat["tv_loss"] == 0


def test_check_8_at_its_own_content_and_style_nothing_is_lost():
    task = etnet()
    image = signed(photos(2, 32))
    targets = {
        3: task.measure.target(coarser(image), [Style(coarser(image))]),
        2: task.measure.target(image, [Style(image)]),
    }
    terms = task.loss_terms(2, image, targets)
    assert terms["content_loss"] == terms["style_loss"] == 0


# --- 9 ---------------------------------------------------------------------------------------------------------------


def test_check_9_the_rate_falls_hyperbolically_and_anew_in_every_level():
    task = on_meta_device(Train)
    rates = []
    for task.step in (0, 20_000, 100_000):
        rates.append(1e-4 * task.lr_scale("level"))
    assert_close(rates, [1e-4, 5e-5, 1e-4 / 6])
    run = small_run(NAME, steps=3)
    advance(run, 3)
    assert (run.task.phase, run.task.step) == ("level2", 0)
    assert run.task.lr_scale("level") == 1


@pytest.mark.parametrize("clip", [1.0, None])
def test_check_9_gradients_are_cut_to_length_1_over_all_parameters_unless_told_otherwise(clip: float | None):
    run = small_run(NAME, grad_clip=clip)
    (terms,) = advance(run, 1)
    moments = [value for name, value in run.snapshot().optimizer.items() if name.endswith("exp_avg")]
    used = torch.stack([moment.norm() for moment in moments]).norm() / 0.1  # Adam's first moment holds a tenth of it
    assert terms["gradient_norm"] > 2, "there is something to cut"
    assert_close(float(used), 1.0 if clip else terms["gradient_norm"], rtol=1e-3, atol=0)


# --- 10 --------------------------------------------------------------------------------------------------------------


def learnt(steps: int, **settings: Any) -> list[list[dict[str, float]]]:
    """One pair of 64 x 64, in every place of the batch; the terms of so many steps, for each level."""
    run = small_run(NAME, levels=[3, 2, 1], content_size=64, style_size=64, steps=steps, **settings)
    batch = {name: pictures[:1].expand_as(pictures) for name, pictures in fixed_batch(run.task).items()}
    return [[run.advance(batch) for _ in range(steps)] for _ in range(3)]


def total(terms: dict[str, float]) -> float:
    return sum(value for name, value in terms.items() if name.endswith("_loss"))


def test_check_10_in_short_every_level_learns():
    for terms in learnt(12, batch_size=1, lr=1e-4):
        assert total(terms[-1]) < 0.98 * total(terms[0])
        assert terms[-1]["style_loss"] < terms[0]["style_loss"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_check_10_in_150_steps_every_level_loses_5_per_cent_from_the_published_start():
    for terms in learnt(150, start_std=0.001):
        start, end = (np.mean([total(t) for t in part]) for part in (terms[:5], terms[-5:]))
        assert end < 0.95 * start
        assert terms[-1]["style_loss"] < terms[0]["style_loss"]


# --- levels ----------------------------------------------------------------------------------------------------------


def test_stages_can_be_jobs_of_their_own_each_on_the_model_of_the_one_before():
    first = small_run(NAME, levels=[3], steps=2)
    advance(first, 2)
    base = base_of(first.task, NAME)
    second = small_run(NAME, levels=[3, 2], level_steps=[0, 2], base=base)
    assert [(phase.name, phase.steps) for phase in second.phases] == [("level3", 0), ("level2", 2)]
    advance(second, 2)
    assert same(second.task.levels["level3"].state_dict(), first.task.levels["level3"].state_dict())


def test_a_model_that_is_trained_further_starts_from_its_own_weights_and_keeps_to_its_encoder():
    whole = etnet()
    again = small_task(NAME, base=base_of(whole, NAME), seed=5)
    assert same(again.model_tensors(), whole.model_tensors())
    with pytest.raises(ValueError, match="gram_error"):
        small_task(NAME, base=base_of(whole, NAME), gram_error="plain")


def test_check_12_a_level_that_nobody_trained_is_refused():
    for settings, base in (({}, None), ({"levels": [3, 2]}, base_of(etnet(levels=[3]), NAME))):
        run = etnet(level_steps=[0, 0], **settings) if base is None else small_task(NAME, base=base, level_steps=[0, 0])
        level = 3 if base is None else 2
        with pytest.raises(ValueError, match=f"level_steps: 0 was given for level {level}"):
            Run(run, seed=0)
    tensors = etnet().model_tensors()
    only = {name: value for name, value in tensors.items() if not name.startswith("levels.level2")}
    with pytest.raises(ValueError, match=r"levels\.level2.*is missing"):
        etnet().load_model_tensors(only)
    with pytest.raises(ValueError, match=r"no part 'levels\.level3'"):
        small_task(NAME, base=Base("etnet", "train", base_of(etnet(), NAME).config, {}))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"levels": []}, "levels: .*a pyramid is"),
        ({"levels": [2, 1]}, "levels: .*a pyramid is"),
        ({"levels": [3, 1]}, "levels: .*a pyramid is"),
        ({"level_steps": [5]}, "level_steps: 1 numbers were given for 2 levels"),
        ({"levels": [3, 2, 1]}, "content_size: 32 px were given, 3 levels take multiples of 32 from 64"),
        ({"levels": [3, 2, 1], "content_size": 64, "style_size": 80}, "style_size: 80 px"),
        ({"init_std": 0}, "init_std"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(settings: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        etnet(**settings)


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"reduction": "l2"}, {"gram_error": "plain"}, {"vgg_input": "raw"}, {"init": "noise"}, {"style_size": 48}],
)
def test_every_form_trains(settings: dict[str, Any]):
    terms = advance(small_run(NAME, steps=1, **settings), 2)
    assert all(np.isfinite(value) for of_step in terms for value in of_step.values())
    (default,) = advance(small_run(NAME, steps=1), 1)
    assert terms[0]["style_loss"] != default["style_loss"]


def test_workers_share_out_the_noise_that_one_alone_would_start_from():
    task = in_phase(etnet(init="noise", init_std=0.2), 3)
    parts = []
    for group in (Group(), Group(0, 2), Group(1, 2)):
        task.group = group
        torch.manual_seed(4)
        parts.append(task.first(torch.empty(2 // group.size, 3, 16, 16)))
    assert torch.equal(parts[0], torch.cat(parts[1:]))
    assert 0.15 < parts[0].std() < 0.2
    assert parts[0].abs().max() <= 0.4
