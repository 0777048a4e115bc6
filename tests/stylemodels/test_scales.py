"""Statistics and maps of several scales as one, against the concatenation that is never made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylemodels.scale_tiles import packed, unpacked
from stylemodels.scales import JointMap, JointMoments, Resample, Scales, Statistics, joint_statistics

WIDTHS = (3, 4, 6)
KERNELS = get_args(Resample)


def random_scales(
    height: int = 16, width: int = 24, *, count: int = 2, widths: Sequence[int] = WIDTHS, seed: int = 0
) -> list[Tensor]:
    """Positive features of full rank, float64."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, height >> place, width >> place, generator=random, dtype=torch.float64).relu() + 1
        for place, channels in enumerate(widths)
    ]


def concatenated(scales: Scales, resample: Resample) -> Tensor:
    """F' itself."""
    larger = [scales[0]]
    for place, features in enumerate(scales[1:], start=1):
        if resample == "nearest_avg":
            larger.append(features.repeat_interleave(1 << place, 2).repeat_interleave(1 << place, 3))
        else:
            larger.append(interpolate(features, scale_factor=1 << place, mode="bilinear", align_corners=False))
    return torch.cat(larger, 1)


def naive_statistics(features: Tensor) -> Statistics:
    flat = features.flatten(2)
    return Statistics(flat.mean(2), torch.stack([torch.cov(one, correction=0) for one in flat]))


def random_map(count: int = 2, channels: int = sum(WIDTHS)) -> JointMap:
    random = torch.Generator().manual_seed(5)
    matrix = torch.randn(count, channels, channels, generator=random, dtype=torch.float64)
    return JointMap(matrix, torch.randn(count, channels, generator=random, dtype=torch.float64))


def naive_map(change: JointMap, scales: Scales, resample: Resample) -> list[Tensor]:
    whole = concatenated(scales, resample)
    mixed = torch.einsum("nij,njhw->nihw", change.matrix, whole) + change.bias[..., None, None]
    parts = torch.split(mixed, [features.shape[1] for features in scales], 1)
    return [avg_pool2d(part, 1 << place) for place, part in enumerate(parts)]


@pytest.mark.parametrize("resample", KERNELS)
@pytest.mark.parametrize("widths", [WIDTHS, (2, 3, 4, 5)])
def test_check_3_statistics_are_those_of_the_concatenation(resample: Resample, widths: tuple[int, ...]):
    scales = random_scales(widths=widths)
    expected = naive_statistics(concatenated(scales, resample))
    for found, naive in zip(joint_statistics(scales, resample), expected, strict=True):
        assert_close(found, naive, rtol=0, atol=1e-10)


def test_check_3_features_that_come_in_pieces_have_the_same_statistics():
    scales = random_scales()
    moments = JointMoments()
    for top in (0, 8):
        for left, right in ((0, 4), (4, 20), (20, 24)):
            moments.add(
                [f[..., top >> n : (top + 8) >> n, left >> n : right >> n].float() for n, f in enumerate(scales)]
            )
    expected = naive_statistics(concatenated([features.float().double() for features in scales], "nearest_avg"))
    for found, naive in zip(moments.statistics, expected, strict=True):
        # what pooling rounds in float32
        assert_close(found, naive, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resample", KERNELS)
@pytest.mark.parametrize("widths", [WIDTHS, (2, 3, 4, 5)])
def test_check_3_a_map_is_that_of_the_concatenation(resample: Resample, widths: tuple[int, ...]):
    scales, change = random_scales(widths=widths), random_map(channels=sum(widths))
    expected = naive_map(change, scales, resample)
    for features, naive in zip(change(scales, resample), expected, strict=True):
        assert_close(features, naive, rtol=0, atol=1e-10)
    for features, naive in zip(change([f.float() for f in scales], resample), expected, strict=True):
        assert_close(features, naive.float(), rtol=0, atol=1e-4)


def test_check_6_what_nearest_neighbours_spread_pooling_brings_back_exactly():
    features = random_scales()[2].float()
    assert torch.equal(avg_pool2d(interpolate(features, scale_factor=2), 2), features)
    identity = JointMap(torch.eye(13).expand(2, 13, 13), torch.zeros(2, 13))
    scales = [one.float() for one in random_scales()]
    for before, after in zip(scales, identity(scales, "nearest_avg"), strict=True):
        assert torch.equal(after, before)


@pytest.mark.parametrize("resample", KERNELS)
def test_gradients_of_the_statistics_are_those_of_the_concatenation(resample: Resample):
    scales = [one.requires_grad_() for one in random_scales(8, 8)]
    random = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 13, 13, generator=random, dtype=torch.float64)

    def gradient(statistics: Statistics) -> tuple[Tensor, ...]:
        loss = (statistics.covariance * weights).sum() + statistics.mean.square().sum()
        return torch.autograd.grad(loss, scales)

    naive = gradient(naive_statistics(concatenated(scales, resample)))
    for found, expected in zip(gradient(joint_statistics(scales, resample)), naive, strict=True):
        assert_close(found, expected, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that was made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return result


def test_nothing_is_made_that_is_larger_than_the_finest_scale():
    scales, change = random_scales(64, 64, count=1, widths=(16, 32, 64)), random_map(1, 112)
    with Largest() as largest:
        joint_statistics(scales, "nearest_avg")
        JointMoments.of(scales)
        change(scales, "nearest_avg")
    assert largest.numbers == scales[0].numel()


@pytest.mark.parametrize("widths", [WIDTHS, (2, 3, 4, 5)])
def test_packed_scales_are_unpacked_as_they_were_and_lie_by_cells(widths: tuple[int, ...]):
    scales = random_scales(widths=widths)
    together = packed(scales)
    for before, after in zip(scales, unpacked(together, widths), strict=True):
        assert torch.equal(after, before)
    corner = unpacked(together[..., :1, 1:2], widths)
    for place, part in enumerate(corner):
        side = 1 << (len(widths) - 1 - place)
        assert torch.equal(part, scales[place][..., :side, side : 2 * side])
