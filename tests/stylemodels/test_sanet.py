"""SANet against its specification: the attention block, the losses and the training step.

Check 2 is in test_attention.py, checks 10 to 12 are in test_sanet_drawing.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.attention import attention_map
from stylemodels.describe import on_meta_device
from stylemodels.method import Style
from stylemodels.methods.sanet import (
    TAPS,
    StyleAttention,
    StylizeControls,
    Train,
    mvn,
    structure_loss,
    style_loss,
)
from stylemodels.settings import json_schema
from stylemodels.vgg import VGG19_DEPTHS, VGG_WIDTHS, named_convolutions
from tests.stylemodels.toy import advance, fixed_batch, paintings, photos, same, small_run, small_task

CHANNELS = 64  # of the two levels of the encoder `random`
TERMS = ("content_loss", "style_loss", "identity1_loss", "identity2_loss")


def sanet(**settings: object) -> Train:
    task = small_task("sanet/train", **settings)
    assert isinstance(task, Train)
    return task


def random_maps(*sizes: tuple[int, int], count: int = 2, seed: int = 0) -> list[Tensor]:
    """Positive features as an encoder gives them, (count, 64, H, W) each."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(count, CHANNELS, *size, generator=random).relu() for size in sizes]


@pytest.fixture
def block() -> StyleAttention:
    torch.manual_seed(0)
    return StyleAttention(CHANNELS, "sdpa", 16).requires_grad_(False)


def weights_of(block: StyleAttention, content: Tensor, style: Tensor) -> Tensor:
    return attention_map(block.f(mvn(content)), block.g(mvn(style)))


# --- 1 ---------------------------------------------------------------------------------------------------------------


def test_check_1_parameter_counts_are_the_published_ones():
    task = on_meta_device(Train)
    assert isinstance(task, Train)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in task.named_children()}
    blocks = [sum(p.numel() for p in block.parameters()) for block in task.transform.blocks.values()]
    assert blocks == [1_050_624, 1_050_624]
    assert (count["transform"], count["decoder"]) == (4_461_056, 3_505_219)
    convolutions = named_convolutions(VGG19_DEPTHS, VGG_WIDTHS)
    upto = list(convolutions)[: list(convolutions).index("conv5_1") + 1]
    encoder = sum(p.numel() for name in upto for p in convolutions[name].parameters())
    assert encoder + 12 == 12_944_972, "the published encoder begins with a 1 x 1 convolution; ours subtracts a mean"


@pytest.mark.parametrize(("levels", "blocks"), [("both", 2), ("relu4_1", 1), ("relu5_1", 1)])
def test_the_levels_asked_for_are_the_ones_there_are(levels: str, blocks: int):
    task = sanet(levels=levels)
    assert len(task.transform.blocks) == blocks
    picture = task.stylize(photos(1, 48), [Style(paintings(1, 64))], StylizeControls()).image
    assert picture is not None
    assert picture.shape == (1, 3, 48, 48)
    assert picture.isfinite().all()


def test_both_levels_are_added_before_one_convolution():
    task = sanet()
    content, style = photos(1, 64), paintings(1, 48)
    own, its = task.encoder(content, TAPS), task.encoder(style, TAPS)
    shallow, deep = (task.transform.blocks[tap](own[tap], its[tap]) for tap in ("relu4_1", "relu5_1"))
    larger = deep.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_close(task.transform(own, its), task.transform.merge_conv(shallow + larger))


# --- 3 to 6: the attention block -------------------------------------------------------------------------------------


def test_the_block_is_equations_1_2_and_5(block: StyleAttention):
    content, style = random_maps((4, 3), (2, 5), count=1)
    c, s = (one[0].flatten(1).double().numpy() for one in (content, style))
    layers = {name: (layer.weight.double().numpy()[..., 0, 0], layer.bias.double().numpy()[:, None])
              for name, layer in block.named_children()}  # fmt: skip

    def normal(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, ddof=1, keepdims=True) + 1e-5)

    def through(name: str, x: np.ndarray) -> np.ndarray:
        return layers[name][0] @ x + layers[name][1]

    logits = through("f", normal(c)).T @ through("g", normal(s))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    expected = c + through("out_conv", through("h", s) @ shares.T)
    assert_close(block.double()(content.double(), style.double())[0].flatten(1).numpy(), expected, rtol=0, atol=1e-10)


def test_check_3_the_order_of_style_positions_does_not_matter(block: StyleAttention):
    content, style = random_maps((6, 6), (5, 7))
    order = torch.randperm(35, generator=torch.Generator().manual_seed(1))
    shuffled = style.flatten(2)[..., order].view_as(style)
    assert (block(content, shuffled) - block(content, style)).abs().max() < 1e-5


def test_check_4_without_f_every_position_gets_the_same_and_without_out_conv_nothing(block: StyleAttention):
    content, style = random_maps((6, 6), (5, 7))
    block.f.weight.zero_()
    block.f.bias.zero_()
    expected = content + block.out_conv(block.h(style.mean((2, 3), keepdim=True)))
    assert_close(block(content, style), expected, rtol=0, atol=2e-6)
    block.out_conv.weight.zero_()
    block.out_conv.bias.zero_()
    assert torch.equal(block(content, style), content)


def test_check_5_brightness_and_contrast_of_channels_do_not_move_the_attention(block: StyleAttention):
    content, style = random_maps((6, 6), (5, 7))
    random = torch.Generator().manual_seed(2)
    gain = torch.rand(1, CHANNELS, 1, 1, generator=random) + 0.5
    shift = torch.randn(1, CHANNELS, 1, 1, generator=random)
    before = weights_of(block, content, style)
    assert (weights_of(block, content * gain + shift, style) - before).abs().max() < 1e-4
    assert (weights_of(block, content, style * gain + shift) - before).abs().max() < 1e-4
    assert (block(content, style * gain + shift) - block(content, style)).abs().max() > 0.1, (
        "h sees the values as they are"
    )


def test_check_5_the_content_loss_is_blind_to_brightness_and_contrast_of_channels():
    content = {tap: random_maps((6, 6), seed=n)[0] for n, tap in enumerate(TAPS)}
    moved = {tap: 1.5 * features + 2 for tap, features in content.items()}
    assert structure_loss(moved, content) < 1e-8
    assert style_loss(moved, content) > 1


def test_check_6_the_bias_of_g_is_without_effect(block: StyleAttention):
    content, style = random_maps((6, 6), (5, 7))
    before = block(content, style)
    block.g.bias.add_(torch.randn(CHANNELS, generator=torch.Generator().manual_seed(3)))
    assert (block(content, style) - before).abs().max() < 1e-4


def test_under_autocast_the_block_stays_in_float32(block: StyleAttention):
    content, style = random_maps((6, 6), (5, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = block(content, style)
    assert torch.equal(got, block(content, style))


# --- 7 and 8: losses -------------------------------------------------------------------------------------------------


def squares(first: np.ndarray, second: np.ndarray) -> float:
    return float(((first - second) ** 2).mean())


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = features.reshape(*features.shape[:2], -1)
    return flat.mean(-1), np.sqrt(flat.var(-1, ddof=1) + 1e-5)


def normalised(features: np.ndarray) -> np.ndarray:
    mean, std = (one[..., None, None] for one in moments(features))
    return (features - mean) / std


def seen(task: Train, images: Tensor) -> dict[str, np.ndarray]:
    return {tap: features.detach().double().numpy() for tap, features in task.encoder(images, TAPS).items()}


def losses_in_numpy(task: Train, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Equations 7 to 9 without their weights; three separate passes."""
    content, style = batch["content"], batch["style"]
    features = {id(image): task.encoder(image, TAPS) for image in (content, style)}
    cs, cc, ss = (
        task.decoder(task.transform(features[id(c)], features[id(s)])).detach()
        for c, s in ((content, style), (content, content), (style, style))
    )
    of = {name: seen(task, image) for name, image in (("c", content), ("s", style), ("cs", cs), ("cc", cc), ("ss", ss))}
    both = ((cc, content), (ss, style))
    return {
        "content_loss": sum(squares(normalised(of["cs"][t]), normalised(of["c"][t])) for t in ("relu4_1", "relu5_1")),
        "style_loss": sum(
            squares(own, its) for t in TAPS for own, its in zip(moments(of["cs"][t]), moments(of["s"][t]), strict=True)
        ),
        "identity1_loss": sum(squares(drawn.numpy(), given.numpy()) for drawn, given in both),
        "identity2_loss": sum(squares(of[a][t], of[b][t]) for t in TAPS for a, b in (("cc", "c"), ("ss", "s"))),
    }


def test_checks_7_and_8_terms_of_one_stacked_call_are_those_of_three_calls_and_of_numpy():
    task = sanet()
    batch = fixed_batch(task)
    terms = {name: value.item() for name, value in task(batch).items()}
    expected = losses_in_numpy(task, batch)
    weights = {"content_loss": 1, "style_loss": 3, "identity1_loss": 50, "identity2_loss": 1}
    assert tuple(terms) == TERMS
    assert terms == pytest.approx({name: weights[name] * value for name, value in expected.items()}, rel=1e-4)


def test_check_8_the_stack_draws_what_separate_calls_draw():
    task = sanet()
    batch = fixed_batch(task)
    content, style = (task.encoder(batch[name], TAPS) for name in ("content", "style"))
    pairs = [(content, style), (content, content), (style, style)]
    for stacked, pair in zip(task.drawn(pairs), pairs, strict=True):
        alone = task.painted(*pair)
        assert_close(stacked.images, alone.images, rtol=0, atol=1e-5)
        for tap in TAPS:
            assert_close(stacked.features[tap], alone.features[tap], rtol=1e-4, atol=1e-4)


def test_content_and_style_crops_may_differ_in_size():
    task = sanet(style_size=48)
    batch = fixed_batch(task)
    assert batch["content"].shape != batch["style"].shape
    terms = {name: value.item() for name, value in task(batch).items()}
    weights = {"content_loss": 1, "style_loss": 3, "identity1_loss": 50, "identity2_loss": 1}
    expected = losses_in_numpy(task, batch)
    assert terms == pytest.approx({name: weights[name] * value for name, value in expected.items()}, rel=1e-4)


def test_check_7_terms_vanish_for_what_they_want():
    task = sanet()
    features = task.encoder(photos(2, 32), TAPS)
    assert structure_loss(features, features) == 0
    assert style_loss(features, features) == 0
    mirrored = {tap: value.flip(3) for tap, value in features.items()}
    assert style_loss(mirrored, features) < 1e-9, "statistics do not know where things are"
    assert structure_loss(mirrored, features) > 0.1


def test_check_7_identity_terms_vanish_for_a_network_that_reproduces_its_input(monkeypatch: pytest.MonkeyPatch):
    task = sanet()
    batch = fixed_batch(task)
    monkeypatch.setattr(
        task.transform, "forward", lambda content, style: torch.cat([batch["content"]] * 2 + [batch["style"]])
    )
    monkeypatch.setattr(task.decoder, "forward", lambda features: features)
    terms = {name: value.item() for name, value in task(batch).items()}
    assert (terms["content_loss"], terms["identity1_loss"], terms["identity2_loss"]) == (0, 0, 0)
    assert terms["style_loss"] > 0


def test_the_identity_weights_are_those_of_the_erratum_and_say_so():
    properties = json_schema(Train.Config)["properties"]
    for name, default in (("identity1_weight", 50.0), ("identity2_weight", 1.0)):
        assert properties[name]["default"] == default
        assert "erratum" in properties[name]["description"]


# --- 9 ---------------------------------------------------------------------------------------------------------------


def test_check_9_every_parameter_of_t_and_d_has_a_gradient_but_the_bias_of_g_and_e_has_none():
    run = small_run("sanet/train")
    encoder = {name: value.clone() for name, value in run.task.encoder.state_dict().items()}
    terms = run.task(fixed_batch(run.task))
    gradients = run.task.gradients(torch.stack(list(terms.values())).sum()).values
    for name, parameter in run.task.named_parameters():
        if name.startswith("encoder."):
            assert parameter not in gradients
            assert not parameter.requires_grad
        elif name.endswith("g.bias"):
            assert gradients[parameter].abs().max() < 1e-4, "noise of float32"
        else:
            assert gradients[parameter].abs().max() > 1e-4, name
    advance(run, 10)
    assert same(run.task.encoder.state_dict(), encoder)


def test_the_rate_falls_as_one_over_the_steps():
    run = small_run("sanet/train", lr=1e-3, lr_decay=0.5, steps=10)
    advance(run, 3)
    assert run.task.active["main"].param_groups[0]["lr"] == pytest.approx(1e-3 / (1 + 0.5 * 2))


@pytest.mark.parametrize("attention", ["full", "chunked"])
def test_a_step_with_another_form_of_attention_is_the_same_step(attention: str):
    usual, other = small_run("sanet/train"), small_run("sanet/train", attention=attention, chunk=5)
    for one, its in zip(advance(usual, 2), advance(other, 2), strict=True):
        assert one == pytest.approx(its, rel=1e-3)


def test_pictures_keep_their_aspect_or_are_squashed_before_the_crop():
    streams = sanet(load_size=40).streams()
    assert [(s.size, s.load_size, s.squash) for s in streams.values()] == [(32, 40, False)] * 2
    assert all(stream.squash for stream in sanet(load_size=40, keep_aspect=False).streams().values())
