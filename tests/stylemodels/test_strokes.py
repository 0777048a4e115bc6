"""Which stroke goes where: the attention filter and the fusion, against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.strokes import attention_filter, attention_levels, fused, stroke_weights


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_attention_filter_counts_the_strong_channels_smooths_and_stretches():
    attended = noise(1, 12, 7, 9).double() * noise(1, 1, 7, 9, seed=1).double().abs()
    values = np.abs(attended[0].numpy())
    counts = np.pad((values > 2 * values.mean()).sum(0).astype(float), 1, mode="edge")
    gauss = np.exp(-0.5 * np.array([[y * y + x * x for x in (-1, 0, 1)] for y in (-1, 0, 1)]))
    gauss /= gauss.sum()
    smooth = np.array([[(counts[y : y + 3, x : x + 3] * gauss).sum() for x in range(9)] for y in range(7)])
    expected = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    assert_close(attention_filter(attended)[0, 0], torch.from_numpy(expected))


def test_the_attention_filter_looks_at_what_stands_out_and_not_at_how_loud_the_whole_is():
    attended = noise(1, 12, 7, 9)
    assert torch.equal(attention_filter(attended), attention_filter(1e-6 * attended))
    assert torch.equal(attention_filter(attended), attention_filter(-attended))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_check_11_attention_that_is_the_same_everywhere_is_one_half(value: float):
    assert attention_filter(torch.full((1, 4, 5, 5), value)).unique().tolist() == [0.5]


def test_check_9_weights_are_shares():
    """Check 9: at least 0, and their sum is 1."""
    attention = torch.rand(1, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    weights = stroke_weights(attention, attention_levels(attention, 4), 50.0)
    assert weights.shape == (4, 1, 8, 9)
    assert weights.min() >= 0
    assert_close(weights.sum(0), torch.ones(1, 8, 9), rtol=0, atol=1e-6)
    distance = np.abs(attention.numpy() - attention_levels(attention, 4).numpy().reshape(4, 1, 1, 1))
    powers = np.exp(50 * (1 - distance).astype(np.float64))
    assert_close(weights.double(), torch.from_numpy(powers / powers.sum(0)), rtol=0, atol=1e-5)


def test_check_9_at_a_centroid_its_stroke_is_alone():
    """Check 9: centroids 0.2 apart, theta 50: weight above 0.999 wherever attention is a centroid's."""
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9])
    weights = stroke_weights(levels.view(1, 1, 2, 2), levels, 50.0)
    assert (weights.flatten(1).diagonal() > 0.999).all()


def test_check_9_theta_zero_blends_all_alike():
    weights = stroke_weights(torch.rand(1, 1, 4, 4), torch.tensor([0.1, 0.4, 0.8]), 0.0)
    assert_close(weights, torch.full((3, 1, 4, 4), 1 / 3))


def test_check_9_more_attention_never_takes_from_the_finest_stroke():
    levels = torch.tensor([0.1, 0.35, 0.6, 0.85])
    rising = stroke_weights(torch.linspace(0, 1, 101).view(1, 1, 1, -1), levels, 50.0)[-1].flatten()
    assert (rising.diff() >= -1e-7).all()
    assert rising[0] < 1e-6
    assert rising[-1] > 0.999


def test_check_9_centroids_ascend():
    attention = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).square()
    levels = attention_levels(attention, 5)
    assert (levels.diff() > 0).all()
    assert levels[0] >= 0
    assert levels[-1] <= 1


def test_check_9_fusion_is_the_weighted_sum_at_every_position_and_a_stroke_alone_as_it_is():
    strokes = [noise(1, 3, 4, 5, seed=n) for n in range(3)]
    weights = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.einsum("kchw,kohw->chw", torch.cat(strokes).numpy(), weights.numpy())
    assert_close(fused(strokes, weights)[0], torch.from_numpy(expected))
    assert fused(strokes[:1], weights[:1]) is strokes[0]


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
def test_check_11_more_strokes_than_different_attention_still_have_finite_weights(values: list[float]):
    attention = torch.tensor(values).view(1, 1, 1, -1)
    weights = stroke_weights(attention, attention_levels(attention, 4), 1000.0)
    assert weights.isfinite().all()
    assert_close(weights.sum(0), torch.ones(1, 1, len(values)))
