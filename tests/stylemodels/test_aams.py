"""AAMS: attention, decoder, losses and training, by the acceptance checks of the paper's reproduction.

Checks 6 and 7 are in test_swap.py, 8 in test_projection.py too, 9 in test_strokes.py, 10 in test_clusters.py too; what
a finished model draws is in test_aams_drawing.py.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.testing import assert_close

from stylemodels.attention import attention_map
from stylemodels.describe import on_meta_device
from stylemodels.encoders import load_encoder, with_pooling
from stylemodels.features import mean_std
from stylemodels.hourglass import HourglassDecoder
from stylemodels.losses import tv_loss
from stylemodels.methods.aams import (
    DEEPEST,
    AvatarNet,
    Hourglass,
    SelfAttention,
    Train,
    attention_loss,
    total_variation,
)
from stylemodels.swap import style_swap
from stylemodels.swap_baseline import StyleSwap
from stylemodels.train import Run
from stylemodels.vgg import VGG19_DEPTHS, VGG_WIDTHS, Vgg, named_convolutions
from tests.stylemodels.toy import batch_of, fixed_batch, photos, small_run, small_task


def aams(**settings: object) -> Train:
    task = small_task("aams/train", **settings)
    assert isinstance(task, Train)
    return task


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def block() -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(16, 8, scaled=False).requires_grad_(False)


def bottleneck(task: Hourglass, photos: Tensor) -> Tensor:
    """What the decoder gets in a training step."""
    seen: list[Tensor] = []
    handle = task.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    task({"content": photos})
    handle.remove()
    return seen[0]


# --- 1 to 4: the networks --------------------------------------------------------------------------------------------


def test_check_1_parameter_counts_are_the_published_ones():
    task = on_meta_device(Train)
    assert isinstance(task, Train)
    attention = {name: sum(p.numel() for p in layer.parameters()) for name, layer in task.attention.named_children()}
    assert attention == {"f_conv": 131_328, "g_conv": 131_328, "h_conv": 262_656}
    assert sum(p.numel() for p in task.decoder.parameters()) == 3_505_219
    convolutions = named_convolutions(VGG19_DEPTHS, VGG_WIDTHS)
    upto = list(convolutions)[: list(convolutions).index("conv4_1") + 1]
    assert sum(p.numel() for name in upto for p in convolutions[name].parameters()) == 3_505_728


def test_check_1_shapes_are_those_of_the_published_graph():
    """At an eighth of VGG's width, by which the channels are multiplied here."""
    task = aams().requires_grad_(False)
    own = task.encoded(photos(1, 256))
    shapes = {tap: (8 * features.shape[1], *features.shape[2:]) for tap, features in own.items()}
    assert shapes == {
        "relu1_1": (64, 256, 256),
        "relu2_1": (128, 128, 128),
        "relu3_1": (256, 64, 64),
        "relu4_1": (512, 32, 32),
    }
    assert task.attention(own[DEEPEST]).shape == own[DEEPEST].shape
    adapted: dict[str, torch.Size] = {}

    def adapt(features: Tensor, tap: str) -> Tensor:
        adapted[tap] = features.shape
        return features

    assert task.decoder(own[DEEPEST], adapt).shape == (1, 3, 256, 256)
    assert adapted == {tap: own[tap].shape for tap in ("relu3_1", "relu2_1", "relu1_1")}


CHAIN = [
    ("inv_conv4_1", "relu", "double"),
    ("inv_conv3_4", "relu"),
    ("inv_conv3_3", "relu"),
    ("inv_conv3_2", "relu", "relu3_1"),
    ("inv_conv3_1", "relu", "double"),
    ("inv_conv2_2", "relu", "relu2_1"),
    ("inv_conv2_1", "relu", "double"),
    ("inv_conv1_2", "relu", "relu1_1"),
    ("inv_conv1_1",),
]


def test_the_decoder_is_the_published_chain_and_paints_around_mid_grey():
    """Zero padding, nearest neighbours, statistics of a tap taken over behind the ReLU."""
    channels = {"relu1_1": 3, "relu2_1": 4, "relu3_1": 5, "relu4_1": 6}
    decoder = HourglassDecoder(channels).double().requires_grad_(False)
    scales = {"relu3_1": 0.5, "relu2_1": 3.0, "relu1_1": 2.0}
    features = noise(1, 6, 3, 4).double()
    expected = features
    for layer, *then in CHAIN:
        conv = decoder.get_submodule(layer)
        assert isinstance(conv, nn.Conv2d)
        expected = conv2d(expected, conv.weight, conv.bias, padding=1)
        for step in then:
            match step:
                case "relu":
                    expected = expected.clamp_min(0)
                case "double":
                    expected = expected.repeat_interleave(2, 2).repeat_interleave(2, 3)
                case tap:
                    expected = 1 - scales[tap] * expected
    found = decoder(features, lambda x, tap: 1 - scales[tap] * x)
    assert_close(found, expected)
    assert decoder.inv_conv1_1.bias is not None
    assert decoder.inv_conv1_1.bias.tolist() == [0.5, 0.5, 0.5], "127.5 of 255"


def test_attention_begins_as_published():
    """Xavier's uniform weights, no biases."""
    torch.manual_seed(0)
    block = SelfAttention(64, 32, scaled=False).requires_grad_(False)
    for layer, outputs in ((block.f_conv, 32), (block.g_conv, 32), (block.h_conv, 64)):
        bound = (6 / (64 + outputs)) ** 0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert layer.bias is not None
        assert layer.bias.count_nonzero() == 0


def test_check_2_attention_s_rows_sum_to_one_and_mix_the_values(block: SelfAttention):
    features = noise(2, 16, 5, 6)
    weights = attention_map(block.g_conv(features), block.f_conv(features))
    assert_close(weights.sum(2), torch.ones(2, 30), rtol=0, atol=1e-6)
    values = block.h_conv(features).flatten(2).double().numpy()
    logits = np.einsum(
        "nci,ncj->nij", *(conv(features).flatten(2).double().numpy() for conv in (block.g_conv, block.f_conv))
    )
    powers = np.exp(logits - logits.max(2, keepdims=True))
    expected = np.einsum("nij,ncj->nci", powers / powers.sum(2, keepdims=True), values)
    assert_close(block(features).flatten(2).double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 10, 62])
def test_check_2_attention_in_chunks_is_the_explicit_one(
    block: SelfAttention, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    features = noise(1, 16, 9, 7)
    explicit = block(features)
    monkeypatch.setattr("stylemodels.methods.aams.CHUNK", chunk)
    assert_close(block(features), explicit, rtol=0, atol=1e-5)


def test_check_2_attention_knows_no_places(block: SelfAttention):
    """Check 2: permuting positions permutes A."""
    features = noise(1, 16, 1, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert_close(block(features[..., order]), block(features)[..., order], rtol=0, atol=1e-5)


def test_scaled_logits_are_divided_by_the_root_of_the_channels():
    torch.manual_seed(0)
    scaled = SelfAttention(16, 8, scaled=True).requires_grad_(False)
    features = noise(1, 16, 4, 4)
    found = scaled(features)
    scaled.scale = 1.0
    scaled.g_conv.weight.div_(8**0.5)
    assert_close(found, scaled(features))
    assert aams(attention_scale="none").attention.scale == 1


def test_check_3_every_parameter_has_a_gradient_but_the_keys_bias_and_the_encoder():
    """Check 3: the bias of f_conv adds a constant to each row of the softmax."""
    torch.set_default_dtype(torch.float64)
    try:
        task = aams(attention_scale="none").double()
        sum(task(fixed_batch(task)).values()).backward()  # type: ignore[union-attr]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(parameter.grad is None for parameter in task.encoder.parameters())
    gradients = {name: p.grad for name, p in task.named_parameters() if not name.startswith("encoder.")}
    sizes = {name: float(grad.abs().max()) for name, grad in gradients.items() if grad is not None}
    assert sizes.keys() == gradients.keys()
    assert sizes.pop("attention.f_conv.bias") <= 1e-8 * sizes["attention.g_conv.bias"]
    assert all(np.isfinite(size) and size > 0 for size in sizes.values())


def test_check_4_without_attention_the_decoder_gets_the_features_as_they_are():
    """Check 4: A = 0, so O = f, and de-normalised it is relu4_1; the L1 term is 0."""
    task = aams().requires_grad_(False)
    task.attention.h_conv.weight.zero_()
    batch = fixed_batch(task)
    own = task.encoded(batch["content"])[DEEPEST]
    assert_close(bottleneck(task, batch["content"]), own, rtol=1e-5, atol=1e-5)
    assert task(batch)["attention_loss"] == 0


def test_attention_gates_normalised_features_which_get_their_statistics_back():
    """O = f A + f, element by element."""
    task = aams().requires_grad_(False)
    batch = fixed_batch(task)["content"]
    own = task.encoded(batch)[DEEPEST]
    mean, std = mean_std(own, eps=1e-7)
    f = (own - mean) / std
    assert_close(bottleneck(task, batch), f * (1 + task.attention(f)) * std + mean)


def test_the_attention_term_is_of_what_gates_the_features():
    """L_att is of A itself, of normalised features; summed over channels, a mean over positions and photos."""
    task = aams(att_weight=5.0).requires_grad_(False)
    photo = fixed_batch(task)["content"]
    own = task.encoded(photo)[DEEPEST]
    mean, std = mean_std(own, eps=1e-7)
    expected = 5 * task.attention((own - mean) / std).abs().sum(1).mean()
    assert_close(task({"content": photo})["attention_loss"], expected)


# --- 5: the losses ---------------------------------------------------------------------------------------------------


def test_check_5_a_perfect_picture_has_no_content_loss():
    task = aams()
    images = photos(2, 32)
    terms = task.reconstruction(images, images, task.encoded(images))
    assert terms["pixel_loss"] == terms["perceptual_loss"] == 0


def test_check_5_content_losses_are_the_formula_s():
    task = aams(pixel_weight=2.0, perceptual_weight=3.0, perceptual_layers=["relu2_1", "relu4_1"])
    output, images = photos(2, 32, seed=1), photos(2, 32)
    terms = task.reconstruction(output, images, task.encoded(images))
    levels = ((255 * output - 255 * images).double().numpy() ** 2).mean()
    seen, wanted = task.encoded(output), task.encoded(images)
    squares = [((seen[t] - wanted[t]).double().numpy() ** 2).mean() for t in ("relu2_1", "relu4_1")]
    assert float(terms["pixel_loss"]) == pytest.approx(2 * levels, rel=1e-5)
    assert float(terms["perceptual_loss"]) == pytest.approx(3 * (255 * 0.226) ** 2 * sum(squares), rel=1e-5)


def test_check_5_total_variation_counts_steps():
    """Check 5: 0 for a constant picture, 1 for a ramp of step 1, ten times that with the published weight."""
    assert total_variation(torch.full((1, 3, 5, 6), 0.3)) == 0
    ramp = torch.arange(6.0).expand(1, 3, 5, 6)
    assert total_variation(ramp) == 1
    assert total_variation(3 * ramp.transpose(2, 3)) == 3
    task = aams()
    terms = task.reconstruction(photos(1, 32) * 0 + torch.arange(32) / 255, photos(1, 32), task.encoded(photos(1, 32)))
    assert float(terms["tv_loss"]) == pytest.approx(10, rel=1e-4)


def test_check_5_the_three_reductions_differ_by_the_numbers_they_sum():
    found = noise(3, 8, 5, 4)
    mean = attention_loss(found, "mean", 3)
    assert float(mean) == pytest.approx(found.abs().double().mean().item(), rel=1e-5)
    assert_close(attention_loss(found, "position", 3), 8 * mean)
    assert float(attention_loss(found, "sum", 3)) == pytest.approx(found.abs().double().sum().item(), rel=1e-5)


def test_the_sum_over_a_batch_is_the_same_for_workers_that_share_it():
    """What each worker says of its pictures is averaged by their number."""
    found = noise(4, 8, 5, 4)
    parts = [attention_loss(part, "sum", 4) for part in (found[:3], found[3:])]
    assert_close(0.75 * parts[0] + 0.25 * parts[1], attention_loss(found, "sum", 4))


# --- training --------------------------------------------------------------------------------------------------------


def test_check_12_in_a_short_run_the_pixel_loss_falls_by_two_fifths_and_attention_is_driven_down():
    """Check 12: 64 px, 100 steps at the published rate on one batch, the L1 term summed as in the authors' code."""
    run = small_run("aams/train", content_size=64, lr=1e-4, adam_eps=1.0, attention_scale="none", att_reduction="sum")
    batch = fixed_batch(run.task)
    terms = [run.advance(batch) for _ in range(100)]
    assert terms[-1]["pixel_loss"] < 0.6 * terms[0]["pixel_loss"]
    assert terms[-1]["attention_loss"] < 0.9 * terms[0]["attention_loss"]


def test_avatar_net_is_the_same_training_without_attention():
    task = small_task("aams/avatar-net")
    assert isinstance(task, AvatarNet)
    batch = fixed_batch(task)
    assert torch.equal(bottleneck(task, batch["content"]), task.encoded(batch["content"])[DEEPEST])
    with_attention = aams().requires_grad_(False)
    with_attention.attention.h_conv.weight.zero_()
    with_attention.decoder.load_state_dict(task.decoder.state_dict())
    expected, terms = with_attention(batch), task(batch)
    assert set(expected) - set(terms) == {"attention_loss"}
    for name, value in terms.items():
        assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "pictures"), [("aams/train", {"content"}), ("aams/style-swap", {"content", "style"})])
def test_the_reconstruction_learns_from_photos_alone(name: str, pictures: set[str]):
    task = small_task(name, load_size=40)
    assert set(task.streams()) == set(type(task).needs.datasets) == pictures
    assert all((s.size, s.load_size, s.count) == (32, 40, 2) for s in task.streams().values())


def test_adam_is_told_its_constants():
    run = Run(aams(betas=[0.5, 0.6], adam_eps=0.25), seed=0)
    (group,) = run.task.active["main"].param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.5, 0.6), 0.25, 1e-3)


@pytest.mark.parametrize("name", ["aams/train", "aams/avatar-net"])
def test_no_perceptual_layers_are_refused(name: str):
    with pytest.raises(ValueError, match="perceptual_layers: none was given"):
        small_task(name, perceptual_layers=[])


def test_the_encoder_pools_as_it_is_told_and_the_shared_one_stays_as_it_was():
    shared = load_encoder("random")
    averaging = with_pooling(shared, "avg")
    assert with_pooling(shared, "max") is shared
    images = photos(1, 32)
    before, after = (encoder(images, ["relu1_2", "relu2_1"]) for encoder in (shared, averaging))
    assert torch.equal(before["relu1_2"], after["relu1_2"])
    assert not torch.allclose(before["relu2_1"], after["relu2_1"])
    assert isinstance(shared.network, Vgg)
    assert shared.network.pooling == "max"
    assert isinstance(averaging.network, Vgg)
    assert averaging.network.pooling == "avg"


def test_a_pooling_that_the_encoder_does_not_have_is_refused():
    with pytest.raises(ValueError, match="vgg_pool: avg was given, encoder small has max"):
        small_task("aams/train", encoder="small", vgg_pool="avg")


# --- Style Swap ------------------------------------------------------------------------------------------------------


def test_style_swap_learns_to_invert_swapped_features_too():
    task = small_task("aams/style-swap")
    decoded: list[Tensor] = []
    task.get_submodule("decoder").register_forward_pre_hook(lambda _, given: decoded.append(given[0]))
    task(batch_of(task.streams()))
    content, style, swapped = decoded
    assert content.shape == style.shape == swapped.shape == (2, 32, 8, 8)
    assert all(not torch.allclose(first, second) for first, second in pairwise(decoded))
    lowest, highest = style.amin((2, 3), keepdim=True), style.amax((2, 3), keepdim=True)
    assert (swapped >= lowest.clamp_max(0) - 1e-5).all()
    assert (swapped <= highest + 1e-5).all()


def test_style_swap_s_loss_is_the_formula_s():
    """Means over features and over the three kinds of them; patches of the size asked for."""
    task = small_task("aams/style-swap", patch_size=5, tv_weight=0.5).requires_grad_(False)
    assert isinstance(task, StyleSwap)
    batch = batch_of(task.streams())
    terms = task(batch)
    content, style = task.encoded(batch["content"]), task.encoded(batch["style"])
    errors, variations = [], []
    for features in (content, style, style_swap(content, style, patch_size=5)):
        output = task.decoder(features)
        errors.append(((task.encoded(output) - features).double().numpy() ** 2).mean())
        variations.append(float(tv_loss(output)))
    assert float(terms["feature_loss"]) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(terms["tv_loss"]) == pytest.approx(0.5 * np.mean(variations), rel=1e-4)


def test_even_patches_are_refused_in_training():
    with pytest.raises(ValueError, match="patch_size: 4 was given, it must be odd"):
        small_task("aams/style-swap", patch_size=4)
