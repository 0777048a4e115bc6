"""Local feature normalisation: what it equals, how far it sees, and that both forms of it agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm, instance_norm
from torch.testing import assert_close

from stylemodels.local_norm import EPS, LocalNorm, NormForm, matrix_mean, pooled_mean

SIZES = [(5, 8), (16, 16), (141, 97), (1, 3)]


def maps(*size: int, channels: int = 8, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *size, generator=random, dtype=torch.float64) + 3


def norm(channels: int = 8, size: int = 4) -> LocalNorm:
    torch.manual_seed(0)
    layer = LocalNorm(channels, size).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def brute_force(values: Tensor, window: int) -> Tensor:
    """`pooled_mean` by loops over windows and positions: (H, W) -> (H, W)."""
    for _ in range(2):  # the rows, then, transposed, the columns
        side = values.shape[0]
        kernel = min(window, side)
        stride = max(kernel // 2, 1)
        grid = [values[start : start + kernel].mean(0) for start in range(0, side - kernel + 1, stride)]
        rows = []
        for row in range(side):
            place = max((row + 0.5) * len(grid) / side - 0.5, 0)
            low = int(place)
            high = min(low + 1, len(grid) - 1)
            rows.append(grid[low] * (1 - (place - low)) + grid[high] * (place - low))
        values = torch.stack(rows).T
    return values


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [1, 7, 64])
def test_the_local_mean_is_that_of_windows_half_a_window_apart_in_both_forms(size: tuple[int, int], window: int):
    """Check 2: also of maps that are smaller than the window, and of odd sizes."""
    values = maps(*size, channels=1)[:1]
    expected = brute_force(values[0, 0], window)
    assert_close(pooled_mean(values, window)[0, 0], expected, rtol=0, atol=1e-6)  # the grid's scale is in float32
    assert_close(matrix_mean(values, window)[0, 0], expected, rtol=0, atol=1e-10)


def test_check_2_with_a_window_as_large_as_the_map_it_is_group_norm_and_with_groups_of_one_instance_norm():
    features = maps(12, 9)
    for size, form in ((4, "pooled"), (4, "matrix"), (1, "matrix")):
        layer = norm(size=size)
        layer.form = form
        expected = group_norm(features, 8 // size, layer.weight, layer.bias, EPS)
        assert_close(layer(features, 12), expected)
        if size == 1:
            assert_close(layer(features, 500), instance_norm(features, weight=layer.weight, bias=layer.bias, eps=EPS))


@pytest.mark.parametrize("window", [6, 100])
def test_check_2_a_constant_gives_the_bias_and_an_affine_map_of_the_input_changes_nothing(window: int):
    layer, features = norm(), maps(20, 31)
    flat = torch.full_like(features, 7.0)
    assert_close(layer(flat, window), layer.bias.view(-1, 1, 1).expand_as(flat))
    assert_close(layer(2.5 * features - 40, window), layer(features, window), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(5, 8), (33, 17)])
def test_check_2_gain_and_bias_learn(size: tuple[int, int]):
    layer = norm()
    layer(maps(*size), 8).pow(3).sum().backward()
    for parameter in (layer.weight, layer.bias):
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


def test_check_3_one_corner_does_not_reach_the_opposite_one():
    layer, features = norm(), maps(256, 256)[:1]
    changed = features.clone()
    changed[..., 0, 0] += 100
    before, after = layer(features, 32), layer(changed, 32)
    assert torch.equal(before[..., 128:, 128:], after[..., 128:, 128:])
    assert not torch.equal(before[..., :16, :16], after[..., :16, :16])
    everywhere = LocalNorm(8, 1, everywhere=True).double()
    assert not torch.equal(everywhere(features, 32)[..., 255, 255], everywhere(changed, 32)[..., 255, 255])


def test_where_the_last_window_ends_early_the_border_stays_in_the_range_of_the_rest():
    """141 positions, windows of 64: the last 13 rows take the statistics of the last window."""
    normalised = norm(size=8)(maps(141, 64), 64)
    assert normalised[..., -13:, :].std() < 1.5 * normalised[..., :-13, :].std()


def test_under_autocast_statistics_are_taken_in_float32():
    layer = norm().float()
    features = (maps(24, 24) * 100).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for form in ("pooled", "matrix"):
            layer.form = form
            assert layer(features, 8).dtype == torch.float32
            assert_close(layer(features, 8), norm().float()(features, 8))


def test_channels_that_are_no_whole_groups_are_refused():
    assert NormForm("lfn", 32).layer(16).groups == 1
    assert NormForm("instance", 32).layer(40).groups == 40
    with pytest.raises(ValueError, match="40 channels cannot be normalised in groups of 32"):
        NormForm("lfn", 32).layer(40)
