"""Features freed of their style and given another: check 8 of AAMS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.features import adain, mean_std
from stylemodels.projection import Projection, coloured, whitened
from stylemodels.whitening import Moments, colouring_map, wct_map, whitening_map


def features(*sides: int, channels: int = 32, seed: int = 0) -> Tensor:
    """Channels that hang together, (1, C, H, W)."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(1, channels, *sides, generator=random)
    mixing = torch.randn(channels, channels, generator=random) / 8
    return values + torch.einsum("dc,nchw->ndhw", mixing, values) + 1


def covariance(values: Tensor) -> Tensor:
    flat = values[0].flatten(1).double()
    return torch.cov(flat)


def test_check_8_zca_gives_identity_covariance():
    """Check 8: 32 channels, 80 positions."""
    white = whitened(features(8, 10), "zca")
    assert_close(covariance(white), torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-4)
    assert_close(white.mean((2, 3)), torch.zeros(1, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("projection", ["zca", "adain"])
def test_check_8_coloured_as_they_were_whitened_features_are_themselves(projection: Projection):
    own = features(8, 10)
    assert_close(coloured(whitened(own, projection), own, projection), own, rtol=0, atol=1e-4)


def test_check_8_coloured_features_have_the_style_s_mean_and_covariance():
    style = features(9, 9, seed=1)
    found = coloured(whitened(features(8, 10), "zca"), style, "zca")
    assert_close(found.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-4)
    assert_close(covariance(found), covariance(style), rtol=0, atol=1e-3)


def test_by_channels_whitening_and_colouring_are_adain():
    """Check 8: the output has the reference's mean and deviation."""
    own, style = features(8, 10), features(9, 9, seed=1)
    found = coloured(whitened(own, "adain"), style, "adain")
    assert_close(found, adain(own, style))
    for got, wanted in zip(mean_std(found), mean_std(style), strict=True):
        assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_two_maps_one_after_the_other_are_whitening_and_colouring_at_once():
    content, style = Moments.of(features(8, 10)), Moments.of(features(9, 9, seed=1))
    values = features(3, 4, seed=2)
    there = whitening_map(content)(values)
    assert_close(colouring_map(style)(there), wct_map(content, style)(values), rtol=0, atol=1e-4)


@pytest.mark.parametrize("projection", ["zca", "adain"])
def test_check_11_constant_features_become_zero(projection: Projection):
    assert torch.equal(whitened(torch.full((1, 4, 5, 5), 2.0), projection), torch.zeros(1, 4, 5, 5))
