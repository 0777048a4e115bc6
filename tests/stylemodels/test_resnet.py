"""Residual networks with gates: the published sizes, and each block against its formula."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.testing import assert_close

from stylemodels.recalibration import Kind, recalibration, watched
from stylemodels.resnet import (
    BasicBlock,
    Bottleneck,
    Gate,
    PaddedShortcut,
    Subsample,
    large_resnet,
    small_resnet,
)

LARGE = {  # plain, SE, GE, SRM
    18: (11_689_512, 11_778_592, 12_447_912, 11_697_192),
    34: (21_797_672, 21_958_868, 23_188_840, 21_812_776),
    50: (25_557_032, 28_088_024, 31_121_704, 25_617_448),
    101: (44_549_160, 49_326_872, 53_578_024, 44_679_208),
    152: (60_192_808, 66_821_848, 73_482_536, 60_384_296),
}
SMALL = {  # plain A, plain B, SRM A, SRM B
    20: (269_722, 272_474, 271_066, 273_818),
    32: (464_154, 466_906, 466_394, 469_146),
    56: (853_018, 855_770, 857_050, 859_802),
}


def gate(kind: Kind) -> Gate:
    return lambda channels, side: recalibration(kind, channels, side=side)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", LARGE)
def test_check_1_networks_for_large_pictures_have_the_published_parameters(depth: int):
    with torch.device("meta"):
        counts = [parameters(large_resnet(depth, 1000, gate(kind))) for kind in get_args(Kind)]
    assert tuple(counts) == LARGE[depth]


@pytest.mark.parametrize("depth", SMALL)
def test_check_1_networks_for_small_pictures_have_the_published_parameters(depth: int):
    with torch.device("meta"):
        counts = [
            parameters(small_resnet(depth, 10, gate(kind), option=option))
            for kind in ("none", "srm")
            for option in ("A", "B")
        ]
        assert parameters(small_resnet(32, 10, gate("se"))) == 470_861
    assert tuple(counts) == SMALL[depth]


def test_networks_start_as_published():
    """Convolutions with a variance of 2 over the weights that lead away from a position; norms as they are."""
    torch.manual_seed(0)
    networks = [small_resnet(8, 4, gate("srm"), width=64), large_resnet(50, 4, gate("srm"), width=16)]
    for layer in nn.ModuleList(networks).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            spread = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.06)
            assert layer.bias is None
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()


def test_check_12_other_depths_are_refused():
    with pytest.raises(ValueError, match=r"depth: 18 was given, .* 6 n \+ 2 layers"):
        small_resnet(18, 10, gate("none"))
    with pytest.raises(ValueError, match="depth: 20 was given, allowed are 18, 34, 50, 101, 152"):
        large_resnet(20, 10, gate("none"))


@pytest.mark.parametrize(("size", "sides"), [(224, [56, 28, 14, 7]), (57, [15, 8, 4, 2])])
def test_stages_halve_the_maps_and_ge_knows_their_sides(size: int, sides: list[int]):
    with torch.device("meta"):
        network = large_resnet(18, 5, gate("ge"), width=8, size=size)
        maps = network.stem(torch.rand(2, 3, size, size))
        for stage, side in zip(network.stages, sides, strict=True):
            maps = stage(maps)
            assert maps.shape[2:] == (side, side)
        assert network(torch.rand(2, 3, size, size)).shape == (2, 5)
        with pytest.raises(ValueError, match="recalibration ge"):
            network(torch.rand(2, 3, size + 32, size))


def test_networks_for_small_pictures_take_other_sizes_too():
    network = small_resnet(8, 4, gate("srm"), width=8).eval()
    with watched(network) as seen:
        assert network(torch.rand(2, 3, 40, 28)).shape == (2, 4)
    assert [gates[0].shape[1] for gates in seen.values()] == [8, 16, 32]


def test_taking_positions_first_is_a_convolution_with_a_stride():
    x = torch.rand(2, 4, 9, 10, dtype=torch.float64)
    weight = torch.rand(8, 4, 1, 1, dtype=torch.float64)
    assert_close(conv2d(Subsample()(x), weight), conv2d(x, weight, stride=2))


def test_option_a_pads_channels_with_zeros():
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(PaddedShortcut(4, 2)(x), torch.cat([x[..., ::2, ::2], torch.zeros(2, 4, 4, 4)], 1))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_gates_its_branch_before_the_sum(block: type[BasicBlock | Bottleneck]):
    """With its last norm at zero gain a block is what its shortcut gives; else the gate scales the difference."""
    channels = 8 if block is BasicBlock else 32
    plain = block(channels, 8, 1, nn.Identity(), "B").eval()
    gated = block(channels, 8, 1, recalibration("srm", channels), "B").eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = 5 + torch.rand(2, channels, 6, 6)  # so that no ReLU cuts the sum
    assert_close(gated(x) - x, (plain(x) - x) / 2, rtol=1e-4, atol=1e-4)


def test_a_narrow_shortcut_survives_its_backward_pass_in_channels_last():
    """4 to 8 channels at half the size: what PyTorch's own strided kernel dies of on some CPUs."""
    network = small_resnet(8, 2, gate("srm"), width=4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for size in (15, 16, 33):
        pictures = torch.rand(4, 3, size, size).contiguous(memory_format=torch.channels_last)
        network(pictures).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
