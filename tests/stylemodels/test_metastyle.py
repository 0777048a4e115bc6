"""MetaStyle against its specification: a test for each check of the paper's reproduction list.

Check 1 is in test_blocks.py; Gram and content terms of check 2 in test_features.py, test_losses.py; checks 8 to 10 in
test_metastyle_adaptation.py, pictures of 10 in test_stylize.py; checks 11 and 12 also in test_train.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from stylemodels.blocks import norm_parameters
from stylemodels.methods.metastyle import AdaptConfig, Train, TrainConfig, squared, total
from stylemodels.schema import InvalidConfig
from stylemodels.settings import build, json_schema
from stylemodels.train import Diverged
from tests.stylemodels.toy import advance, base_of, batch_of, in_use, paintings, same, small_run, small_task


def in_float64(task: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The task becomes float64; returns its batch in float64."""
    task.double()
    return {name: pictures.double() for name, pictures in batch.items()}


def meta_task(**settings: Any) -> Train:
    task = small_run("metastyle/train", **settings).task
    assert isinstance(task, Train)
    return task


def mean_loss(task: Train, batch: Mapping[str, Tensor]) -> float:
    return fmean(float(terms["total_loss"]) for terms in task.outer_gradients(batch)[1])


def slope_by_differences(task: Train, batch: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> float:
    """Central difference of the outer loss along a direction in theta, step 1e-7."""
    parameters = dict(task.network.named_parameters())

    def moved(by: float) -> float:
        with torch.no_grad():
            for name, way in direction.items():
                parameters[name].add_(way, alpha=by)
        loss = mean_loss(task, batch)
        with torch.no_grad():
            for name, way in direction.items():
                parameters[name].sub_(way, alpha=by)
        return loss

    return (moved(1e-7) - moved(-1e-7)) / 2e-7


def unit_direction(parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    ways = {name: torch.randn(p.shape, generator=random, dtype=torch.float64) for name, p in parameters.items()}
    length = sum(float((way**2).sum()) for way in ways.values()) ** 0.5
    return {name: way / length for name, way in ways.items()}


# --- 2 ----------------------------------------------------------------------------------------------------------------


def test_check_2_the_loss_agrees_with_an_independent_formula_and_is_linear_in_its_weights():
    task = meta_task(content_weight=3.0, style_weight=70.0)
    batch = in_float64(task, batch_of(task.streams()))
    output = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    style = batch["style"][:1]
    terms = task.loss(output, task.loss.content_target(batch["content"]), task.loss.style_target(style))

    taps = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
    own, wanted, painted = (task.encoder(x, taps) for x in (output, batch["content"], style))
    expected_style = 0.0
    for tap in taps:
        area = own[tap][0].numel()
        difference = torch.einsum("nixy,njxy->nij", own[tap], own[tap]) / area
        difference = difference - torch.einsum("nixy,njxy->nij", painted[tap], painted[tap]) / area
        expected_style += float((difference**2).mean())
    expected_content = float(((own["relu2_2"] - wanted["relu2_2"]) ** 2).mean())
    assert_close(terms["style_loss"].item(), 70 * expected_style, rtol=1e-10, atol=1e-10)
    assert_close(terms["content_loss"].item(), 3 * expected_content, rtol=1e-10, atol=1e-10)


def test_check_2_the_style_term_of_the_style_picture_itself_is_zero():
    task = meta_task()
    style = paintings(1, 32)
    terms = task.loss(style, task.loss.content_target(style), task.loss.style_target(style))
    assert total(terms).item() == 0


# --- 3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_steps", [1, 2, 3])
def test_check_3_meta_gradient_matches_central_differences(inner_steps: int):
    task = meta_task(inner_steps=inner_steps, style_weight=100.0, inner_lr=0.01)
    batch = in_float64(task, batch_of(task.streams()))
    batch["query"] = batch["content"]
    parameters = dict(task.network.named_parameters())
    norms = norm_parameters(task.network)
    second, terms = task.outer_gradients(batch)
    task.config = replace(task.config, second_order=False)
    first, _ = task.outer_gradients(batch)

    assert fmean(float(t["total_loss"]) / float(t["inner_loss"]) for t in terms) < 0.99, "inner steps do something"
    convolutions = {name: p for name, p in parameters.items() if name not in norms}
    for space in (norms, convolutions):
        errors, order_matters = [], []
        for seed in range(3):
            direction = unit_direction(space, seed)
            slope = sum(float((second.values[parameters[name]] * way).sum()) for name, way in direction.items())
            rough = sum(float((first.values[parameters[name]] * way).sum()) for name, way in direction.items())
            errors.append(abs(slope / slope_by_differences(task, batch, direction) - 1))
            order_matters.append(abs(rough / slope - 1))
        # The inner gradient jumps where a ReLU switches: a difference across such a place means nothing.
        assert median(errors) < 1e-5
        assert median(order_matters) > 1e-3, "the first-order gradient is another one"


def test_check_3_without_an_inner_rate_both_orders_are_the_plain_gradient():
    task = meta_task(meta_batch=1)
    batch = in_float64(task, batch_of(task.streams()))
    task.config = replace(task.config, inner_lr=0.0)
    second, _ = task.outer_gradients(batch)
    task.config = replace(task.config, second_order=False)
    first, _ = task.outer_gradients(batch)

    photos_, grams = batch["query"], task.loss.style_target(batch["style"])
    plain = task.gradients(total(task.loss(task.network(photos_), task.loss.content_target(photos_), grams)))
    for parameter, value in plain.values.items():
        assert_close(second.values[parameter], value, rtol=1e-10, atol=1e-12)
        assert_close(first.values[parameter], value, rtol=1e-10, atol=1e-12)


# --- 4, 5 ------------------------------------------------------------------------------------------------------------


def test_check_4_one_inner_step_is_a_step_down_the_gradient_of_the_instance_norms():
    task = meta_task()
    batch = batch_of(task.streams())
    content, grams = task.loss.content_target(batch["content"]), task.loss.style_target(batch["style"][:1])
    seen: list[Tensor] = []
    hook = task.network.conv2.register_forward_pre_hook(lambda module, _: seen.append(module.weight))
    fast, _ = task.inner_steps(batch["content"], content, grams)
    task.draw(batch["query"], fast)
    hook.remove()

    loss = total(task.loss(task.network(batch["content"]), content, grams))
    norms = norm_parameters(task.network)
    assert fast.keys() == norms.keys()
    for name, slope in zip(norms, torch.autograd.grad(loss, list(norms.values())), strict=True):
        assert_close(fast[name], norms[name] - task.config.inner_lr * slope)
    assert len(seen) == 2
    assert all(weight is task.network.conv2.weight for weight in seen), "convolutions are shared, not copied"


def test_check_4_inner_steps_can_move_everything():
    task = meta_task(inner_params="all")
    batch = batch_of(task.streams())
    grams = task.loss.style_target(batch["style"][:1])
    fast, _ = task.inner_steps(batch["content"], task.loss.content_target(batch["content"]), grams)
    assert fast.keys() == dict(task.network.named_parameters()).keys()


def test_check_5_gradients_reach_everything_that_is_learned_and_theta_waits_for_the_outer_step():
    task = meta_task()
    before = {name: p.detach().clone() for name, p in task.network.named_parameters()}
    gradients, _ = task.outer_gradients(batch_of(task.streams()))
    assert same(dict(task.network.named_parameters()), before)
    for name, parameter in task.network.named_parameters():
        value = gradients.values[parameter]
        assert value.isfinite().all(), name
        assert value.any() or not in_use(name), name
    assert all(parameter.grad is None for parameter in task.encoder.parameters())


# --- 6, 7 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-5), (40_000, 5e-6), (100_000, 2.857e-6)])
def test_check_6_both_rates_fall_hyperbolically(step: int, rate: float):
    run = small_run("metastyle/train", lr=1e-5, inner_lr=1e-5)
    run.task.step = step
    terms = run.task.training_step(batch_of(run.streams()))
    assert terms["lr"].item() == pytest.approx(rate, rel=1e-4)
    assert terms["inner_lr"].item() == pytest.approx(rate, rel=1e-4)
    assert run.task.active["network"].param_groups[0]["lr"] == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("resample", [False, True])
def test_check_7_the_gradient_of_several_styles_is_the_mean_of_each_one_s(resample: bool):
    task = meta_task(meta_batch=3, resample_per_style=resample)
    batch = in_float64(task, batch_of(task.streams()))
    together, _ = task.outer_gradients(batch)
    alone = []
    for n in range(3):
        own = slice(2 * n, 2 * n + 2) if resample else slice(None)
        single = {"content": batch["content"][own], "query": batch["query"][own], "style": batch["style"][n : n + 1]}
        alone.append(task.outer_gradients(single)[0])
    for parameter, value in together.values.items():
        mean = torch.stack([gradients.values[parameter] for gradients in alone]).mean(0)
        assert_close(value, mean, rtol=1e-6, atol=1e-9)


def test_streams_split_photos_and_square_the_styles():
    streams = meta_task(val_fraction=0.25, resample_per_style=True).streams()
    assert (streams["content"].part, streams["query"].part) == ("train", "validation")
    assert streams["content"].validation_share == streams["query"].validation_share == 0.25
    assert (streams["content"].count, streams["style"].count, streams["style"].squash) == (4, 2, True)

    streams = meta_task(val_fraction=0.0, style_resize="crop").streams()
    assert streams["content"].part == streams["query"].part == "all"
    assert (streams["style"].squash, streams["style"].load_size) == (False, 32)


def test_a_style_picture_is_squashed_or_its_middle_cut_out():
    stripe = torch.zeros(1, 3, 40, 120)
    stripe[..., 50:70] = 1
    assert squared(stripe, 32, "squash").shape == squared(stripe, 32, "crop").shape == (1, 3, 32, 32)
    assert squared(stripe, 32, "squash").mean().item() == pytest.approx(1 / 6, abs=0.01)
    assert squared(stripe, 32, "crop").mean().item() == pytest.approx(1 / 2, abs=0.02)


# --- 11 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metastyle/train", "metastyle/adapt"])
def test_check_11_the_same_seed_gives_the_same_losses_and_another_seed_does_not(name: str):
    first, second, other = (advance(small_run(name, seed=seed), 3) for seed in (4, 4, 5))
    assert first == second
    assert first != other


def test_check_11_twice_five_steps_are_ten():
    whole, half = small_run("metastyle/train"), small_run("metastyle/train")
    expected = advance(whole, 10)
    terms = advance(half, 5)
    rest = small_run("metastyle/train", seed=8)
    rest.restore(half.snapshot())
    assert terms + advance(rest, 5) == expected
    assert same(rest.task.network.state_dict(), whole.task.network.state_dict())


# --- 12 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TrainConfig, "inner_steps", 0),
        (TrainConfig, "inner_lr", 0),
        (TrainConfig, "inner_lr", -1e-5),
        (TrainConfig, "val_fraction", 0.5),
        (TrainConfig, "content_size", 66),
        (TrainConfig, "meta_batch", 65),
        (TrainConfig, "width", 3),
        (AdaptConfig, "steps", -1),
        (AdaptConfig, "steps", 20_001),
        (AdaptConfig, "style_size", 16),
        (AdaptConfig, "only_in", "yes"),
    ],
)
def test_check_12_settings_out_of_range_are_refused_by_name(config: type, field: str, value: Any):
    with pytest.raises(InvalidConfig, match=field):
        build(config, {field: value})


def test_check_12_a_loss_that_is_no_number_stops_the_run():
    run = small_run("metastyle/train", lr=1e20)
    with pytest.raises(Diverged, match="lower the learning rate"):
        advance(run, 5)


def test_check_12_a_theta_of_another_architecture_is_refused():
    base = base_of(small_task("metastyle/train"), "metastyle/train")
    with pytest.raises(InvalidConfig, match="width: 16 was given, but the base model has 8"):
        small_task("metastyle/adapt", base=base, width=16)
    broken = replace(base, tensors={name: t for name, t in base.tensors.items() if "conv3" not in name})
    with pytest.raises(ValueError, match=r"conv3\.\w+' is missing"):
        small_task("metastyle/adapt", base=broken)
    with pytest.raises(ValueError, match="allowed is metastyle/train"):
        small_task("metastyle/adapt", base=replace(base, task="adapt"))


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_published_defaults_hold_for_plain_vgg_and_ours_for_the_small_encoder():
    published, ours = build(TrainConfig, {}), build(TrainConfig, {"encoder": "small"})
    assert (published.encoder, published.lr, published.inner_lr, published.style_weight) == ("vgg16", 1e-5, 1e-5, 1e5)
    assert ours.style_weight < 1e4
    assert ours.lr > published.lr
    assert build(AdaptConfig, {}).style_weight == 1e5
    assert build(AdaptConfig, {}, {"encoder": "small"}).style_weight == ours.style_weight


def test_an_adaptation_takes_its_architecture_and_encoder_from_the_base_model():
    fixed = {n for n, prop in json_schema(AdaptConfig)["properties"].items() if prop.get("x-from-base")}
    assert fixed == {"width", "res_blocks", "encoder"}


def test_previews_show_each_style_after_the_inner_steps_and_training_does_not_notice(tmp_path: Path):
    run, undisturbed = small_run("metastyle/train"), small_run("metastyle/train")
    grid = dict(run.preview(batch_of(run.task.preview_streams())))
    assert set(grid) >= {"style-1", "style-2", "content-1", "content-2", "start-1"}
    results = [grid[f"result-{n}-{m}"] for n in (1, 2) for m in (1, 2)]
    assert all(picture.shape == (3, 32, 32) for picture in results)
    assert not any(torch.equal(first, second) for first, second in pairwise(results))
    assert advance(run, 2) == advance(undisturbed, 2)


def test_previews_of_an_adaptation_are_as_many_photos_as_asked_for():
    run = small_run("metastyle/adapt", preview_images=3)
    grid = dict(run.preview(batch_of(run.task.preview_streams())))
    assert list(grid) == ["content-1", "result-1", "content-2", "result-2", "content-3", "result-3"]
