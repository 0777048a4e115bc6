"""MetaStyle against its specification: one test (at least) per check of the paper's reproduction list."""

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

from stylemodels.blocks import FastStyleNetwork, norm_parameters
from stylemodels.encoders import VGG16_DEPTHS, VGG_WIDTHS, Vgg
from stylemodels.features import gram
from stylemodels.method import Base
from stylemodels.methods.metastyle import AdaptConfig, Train, TrainConfig, squared, total
from stylemodels.schema import InvalidConfig
from stylemodels.settings import build, json_schema
from stylemodels.train import Diverged, Run
from tests.stylemodels.toy import advance, base_of, batch_of, paintings, photos, same, small_run, small_task

# Biases in front of an instance norm have no gradient but noise.
USELESS_BIASES = ("conv1.bias", "conv2.bias", "conv3.bias", "deconv1.bias", "deconv2.bias")


def in_use(name: str) -> bool:
    return not name.endswith(USELESS_BIASES)


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


# --- 1 ---------------------------------------------------------------------------------------------------------------


def test_check_1_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        network = FastStyleNetwork()
        vgg = Vgg(VGG16_DEPTHS, VGG_WIDTHS, padding="zero", pooling="max")
    assert sum(p.numel() for p in network.parameters()) == 1_679_235
    assert sum(p.numel() for p in norm_parameters(network).values()) == 3_200
    up_to_relu4_3 = [conv for name, conv in vgg.convolutions.items() if name < "conv5"]
    assert sum(p.numel() for conv in up_to_relu4_3 for p in conv.parameters()) == 7_635_264


@torch.inference_mode()
def test_check_1_the_network_gives_pictures_of_its_input_s_size_rounded_up_to_four():
    network = FastStyleNetwork(width=4, res_blocks=1)
    output = network(photos(1, 256))
    assert output.shape == (1, 3, 256, 256)
    assert 0 < output.min() < output.max() < 1
    assert network(torch.rand(1, 3, 65, 67)).shape == (1, 3, 68, 68)
    assert network(torch.rand(1, 3, 5, 5)).shape == (1, 3, 8, 8)


# --- 2: Gram and content terms alone are in test_features.py and test_losses.py -------------------------------------


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
    task = meta_task(inner_steps=inner_steps)
    batch = in_float64(task, batch_of(task.streams()))
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


# --- 8, 9 ------------------------------------------------------------------------------------------------------------


def learned_start(seed: int, steps: int) -> tuple[Base, list[dict[str, float]]]:
    """theta after a toy meta-training, and its terms."""
    run = small_run("metastyle/train", seed=seed, steps=steps, lr=1e-3)
    terms = advance(run, steps)
    return base_of(run.task, "metastyle/train"), terms


def loss_after_ten_steps(style: int, base: Base | None, seed: int, **settings: Any) -> float:
    """The loss on held-out photos after ten Adam steps towards an unseen style."""
    task = small_task("metastyle/adapt", seed=seed, base=base, steps=10, **settings)
    task.given = type(task.given)(task.needs, style_image=paintings(1, 32, seed=5000 + style))
    run = Run(task, seed=seed)
    advance(run, 10)
    with torch.no_grad():
        return total(task({"content": photos(4, 32, seed=7000)})).item()


def gain_of_the_start(base: Base, seed: int, styles: int, **settings: Any) -> float:
    learned = fmean(loss_after_ten_steps(style, base, seed, **settings) for style in range(styles))
    return learned / fmean(loss_after_ten_steps(style, None, seed, **settings) for style in range(styles))


def test_check_8_a_short_meta_training_lowers_the_loss_after_the_inner_step():
    _, terms = learned_start(seed=0, steps=8)
    assert terms[-1]["total_loss"] < terms[0]["total_loss"]
    assert fmean(step["inner_gain"] for step in terms) > 0.001


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_check_8_ten_steps_from_theta_lead_nearer_to_unseen_styles_than_from_random_weights(seed: int):
    base, terms = learned_start(seed, steps=80)
    assert fmean(step["inner_gain"] for step in terms) > 0
    assert gain_of_the_start(base, seed, styles=6) < 0.9
    assert gain_of_the_start(base, seed, styles=6, only_in=True, lr=1e-2) < 0.85


@pytest.mark.parametrize("only_in", [False, True])
def test_check_9_adaptation_moves_what_it_may(only_in: bool):
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, only_in=only_in, steps=2)
    advance(run, 2)
    start = base.part("network")
    norms = norm_parameters(run.task.network)
    for name, value in run.task.network.state_dict().items():
        if name in norms or not only_in:
            assert not torch.equal(value, start[name]) or not in_use(name), name
        else:
            assert torch.equal(value, start[name]), name


def test_check_9_no_steps_give_theta_itself():
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, steps=0)
    assert run.total_steps == 0
    assert same(run.task.network.state_dict(), base.part("network"))
    assert not any(name.startswith("initial.") for name in run.task.model_tensors()), "theta is not stored twice"


def test_check_9_thirty_steps_bring_the_gram_matrices_near_the_style_s():
    run = small_run("metastyle/adapt", steps=30, lr=1e-2)
    fixed, style = photos(4, 32, seed=7000), run.task.given.style_image
    assert style is not None

    def distance() -> float:
        with torch.no_grad():
            own = run.task.encoder(run.task.network(fixed), run.task.loss.style_taps)
            its = run.task.encoder(squared(style, 32, "squash"), run.task.loss.style_taps)
        return sum(float(((gram(own[tap]) - gram(its[tap])) ** 2).sum()) for tap in own)

    before = distance()
    advance(run, 30)
    assert distance() < 0.6 * before


# --- 10: pictures of blended and mixed models are in test_stylize.py -------------------------------------------------


def test_check_10_a_style_of_instance_norms_is_stored_as_theirs_alone():
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, only_in=True, steps=2)
    advance(run, 2)
    stored = {name for name in run.task.model_tensors() if name.startswith("initial.")}
    assert stored == {f"initial.{name}" for name in norm_parameters(run.task.network)}

    other = small_task("metastyle/adapt", base=None, seed=3)
    other.load_model_tensors(run.task.model_tensors())
    assert same(other.initial.state_dict(), base.part("network"))
    assert same(other.network.state_dict(), run.task.network.state_dict())


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
