"""Check 1: the layouts of the content transformation block's networks, and how they start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, pad
from torch.testing import assert_close

from stylemodels.ctb_networks import (
    ContentDiscriminator,
    ContentEncoder,
    ResidualBlock,
    SameConv,
    StyleDecoder,
    StyleDiscriminator,
    truncated_normal_,
)
from stylemodels.local_norm import NormForm
from stylemodels.methods.ctb import Train, signed
from tests.stylemodels.toy import photos, small_task

LFN = NormForm("lfn", 32)


def ctb(**settings: Any) -> Train:
    task = small_task("ctb/train", **settings)
    assert isinstance(task, Train)
    return task


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_check_1_parameter_counts_of_the_discriminators_and_the_light_decoder():
    """Those of E, T and D are in published.py."""
    with torch.device("meta"):
        style, content = StyleDiscriminator(64, 132, LFN, "ac"), ContentDiscriminator(256, 64, 2, LFN, "ac")
        light = StyleDecoder(32, 0, LFN)
    assert (count(style), count(content), count(light)) == (50_761_199, 4_922_370, 982_560)


@pytest.mark.parametrize("side", [128, 256, 512, 768])
def test_check_1_a_code_has_a_sixteenth_of_the_picture_s_sides(side: int):
    with torch.device("meta"):
        encoder, decoder = ContentEncoder(32, LFN), StyleDecoder(32, 1, LFN)
        code = encoder(torch.empty(1, 3, side, side + 16), 256)
        assert code.shape == (1, 256, side // 16, side // 16 + 1)
        assert decoder(code, 256).shape == (1, 3, side, side + 16)


def test_check_1_what_the_discriminators_give():
    with torch.device("meta"):
        style, content = StyleDiscriminator(64, 132, LFN, "ac"), ContentDiscriminator(256, 64, 2, LFN, "ac")
        of_style, of_content = style(torch.empty(1, 3, 256, 256), 256), content(torch.empty(1, 256, 16, 16), 256)
    assert (of_style.logits.shape, of_style.classes.shape) == ((1, 1, 128, 128), (1, 132))
    assert (of_content.logits.shape, of_content.classes.shape) == ((1, 1, 4, 4), (1, 2))


@pytest.mark.parametrize(("side", "kernel", "stride", "border"), [(8, 5, 2, (1, 2)), (7, 5, 2, (2, 2)),
                                                                  (6, 10, 1, (4, 5)), (6, 6, 1, (2, 3))])  # fmt: skip
def test_a_border_that_does_not_come_out_even_is_wider_on_the_right_and_below(
    side: int, kernel: int, stride: int, border: tuple[int, int]
):
    conv, features = SameConv(2, 3, kernel, stride), torch.randn(1, 2, side, side)
    assert_close(conv(features), conv2d(pad(features, border * 2), conv.weight, stride=stride))
    assert conv(features).shape[2] == -(-side // stride)


def residual(block: ResidualBlock, code: Tensor, window: int) -> Tensor:
    inner = code
    for conv, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
        inner = leaky_relu(norm(conv2d(pad(inner, [1] * 4, mode="reflect"), conv.weight), window), 0.2)
    return code + inner


def test_check_1_e_t_and_d_layer_by_layer():
    """The windows of 64 px are 1/2, 1/4, ... of that; what is 3 x 3 in D has zeros around, all else is reflected."""
    task = ctb(norm="lfn", lfn_window=64, decoder_res_blocks=1, t_identity_init=False).double()
    picture = signed(photos(1, 80)).double()
    code = pad(picture, [15] * 4, mode="reflect")
    layers = zip(task.encoder.convs, task.encoder.norms, (1, 2, 2, 2, 2), (32, 16, 8, 8, 4), strict=True)
    for conv, norm, stride, window in layers:
        code = norm(conv2d(code, conv.weight, stride=stride), window).relu()
    assert_close(task.encoder(picture, 64), code)
    assert_close(task.transform(code, 64), residual(task.transform.blocks[0], code, 2))

    drawn = residual(task.decoder.blocks[0], code, 2)
    for conv, norm, window in zip(task.decoder.convs, task.decoder.norms, (4, 8, 16, 32), strict=True):
        larger = drawn.repeat_interleave(2, 2).repeat_interleave(2, 3)
        drawn = norm(conv2d(larger, conv.weight, padding=1), window).relu()
    drawn = conv2d(pad(drawn, [3] * 4, mode="reflect"), task.decoder.out_conv.weight)
    assert_close(task.decoder(code, 64), 2 * drawn.sigmoid() - 1)


def test_check_1_the_discriminators_layer_by_layer():
    """Seven maps, each also seen by the next layer; the last norm is that of the whole map."""
    task = ctb(norm="lfn", lfn_window=64).double()
    judge, seen = task.critics["style"], signed(photos(2, 80)).double()
    verdict, maps = judge(seen, 64), []
    for conv, norm, predict, window in zip(
        judge.convs, judge.norms, judge.predictions, (16, 8, 4, 2, 2, 2, 999), strict=True
    ):
        features = leaky_relu(norm(conv(seen), window), 0.2)
        seen = torch.cat([features, predict(features)], 1)
        maps.append(interpolate(seen[:, -1:], (40, 40), mode="bilinear"))
    stack = torch.cat(maps, 1)
    assert_close(verdict.logits, judge.head(stack))
    assert_close(verdict.classes, judge.scenes.layers(judge.scenes.conv(stack).amax((2, 3))))

    judge, code = task.critics["content"], torch.randn(2, 64, 5, 6, dtype=torch.float64)
    verdict, seen = judge(code, 64), code
    for conv, norm in zip(judge.convs, judge.norms, strict=True):
        seen = leaky_relu(norm(conv(seen), 2), 0.2)
    assert_close(verdict.logits, judge.head(seen))
    assert_close(verdict.classes, judge.objects(seen.mean((2, 3))))


def test_weights_start_in_a_normal_distribution_without_its_tails():
    weight = torch.empty(100_000)
    truncated_normal_(weight)
    assert weight.abs().max() <= 0.04
    assert float(weight.std()) == pytest.approx(0.8796 * 0.02, rel=0.02)  # of a normal cut off at two deviations
    assert float(weight.mean()) == pytest.approx(0, abs=3e-4)
    gains = LFN.layer(100_000 // 32 * 32).weight.detach()
    assert (float(gains.mean()), float(gains.std())) == (pytest.approx(1, abs=3e-4), pytest.approx(0.02, rel=0.02))
