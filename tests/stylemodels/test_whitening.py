"""Moments of features, roots of matrices, whitening and colouring, against numpy's own words for them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from stylemodels.whitening import EIG_EPS, AffineMap, Moments, matrix_power, wct, wct_map


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Values around 1 whose channels hang together, float64."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=random, dtype=torch.float64)
    mixing = torch.randn(shape[1], shape[1], generator=random, dtype=torch.float64) / (2 * shape[1] ** 0.5)
    return values + torch.einsum("dc,nchw->ndhw", mixing, values) + 1


def with_dead_channels(features: Tensor) -> Tensor:
    """The first channel zero, the second constant, the third a copy of the fourth."""
    features = features.clone()
    features[:, 0], features[:, 1], features[:, 2] = 0.0, 2.5, features[:, 3]
    return features


def flat(features: Tensor) -> np.ndarray:
    """(1, C, H, W) -> (C, positions)."""
    return features[0].flatten(1).double().numpy()


def projector(covariance: np.ndarray, eps: float = EIG_EPS) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    kept = vectors[:, values > eps]
    return kept @ kept.T


class TestMoments:
    def test_are_the_mean_and_the_unbiased_covariance(self):
        features = noise(3, 5, 7, 4)
        moments = Moments.of(features)
        for n in range(3):
            values = flat(features[n : n + 1])
            assert_close(moments.mean[n], torch.from_numpy(values.mean(1)))
            assert_close(moments.covariance[n], torch.from_numpy(np.cov(values)))
            assert_close(moments.std[n], torch.from_numpy(values.std(1, ddof=1)))

    @given(cuts=st.lists(st.integers(1, 39), max_size=5, unique=True), seed=st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_in_pieces_are_those_of_the_whole(self, cuts: list[int], seed: int):
        features = noise(2, 4, 40, 3, seed=seed)
        moments = Moments()
        edges = [0, *sorted(cuts), 40]
        for start, end in pairwise(edges):
            moments.add(features[:, :, start:end])
        whole = Moments.of(features)
        assert moments.positions == whole.positions == 120
        assert_close(moments.mean, whole.mean, rtol=1e-12, atol=1e-12)
        assert_close(moments.covariance, whole.covariance, rtol=1e-12, atol=1e-12)

    def test_more_numbers_than_are_summed_at_once_count_all(self, monkeypatch: pytest.MonkeyPatch):
        features = noise(1, 4, 30, 31)
        whole = Moments.of(features)
        monkeypatch.setattr("stylemodels.whitening.PIECE", 50)
        pieces = Moments.of(features)
        assert pieces.positions == 930
        assert_close(pieces.covariance, whole.covariance, rtol=1e-12, atol=1e-12)

    def test_a_mean_a_million_times_the_spread_costs_no_digits(self):
        features = noise(1, 4, 20, 30)
        moved = Moments()
        for row in (features + 1e6).split(1, dim=2):
            moved.add(row)
        assert_close(moved.covariance, Moments.of(features).covariance, rtol=1e-8, atol=1e-8)

    def test_float32_pieces_are_summed_in_float64(self):
        features = noise(1, 3, 200, 500).float() + 1000
        moments = Moments()
        for piece in features.split(50, dim=2):
            moments.add(piece)
        expected = np.cov(flat(features))
        assert moments.covariance.dtype == torch.float64
        assert_close(moments.covariance[0], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)

    def test_one_position_has_a_mean_and_no_spread(self):
        features = noise(2, 3, 1, 1)
        moments = Moments.of(features)
        assert_close(moments.mean, features[..., 0, 0])
        assert torch.equal(moments.covariance, torch.zeros(2, 3, 3, dtype=torch.float64))

    def test_of_nothing_are_refused(self):
        with pytest.raises(ValueError, match="no positions"):
            _ = Moments().mean
        with pytest.raises(ValueError, match="no positions"):
            _ = Moments().covariance


class TestMatrixPower:
    @pytest.mark.parametrize("power", [0.5, -0.5])
    def test_twice_is_the_matrix_or_its_inverse(self, power: float):
        covariance = Moments.of(noise(2, 6, 9, 9)).covariance
        root = matrix_power(covariance, power)
        assert_close(root @ root, covariance if power > 0 else covariance.inverse(), rtol=1e-9, atol=1e-9)

    def test_directions_below_eps_vanish(self):
        turn = torch.linalg.qr(noise(1, 3, 3, 1)[0, ..., 0])[0]
        covariance = (turn * torch.tensor([4.0, 1e-6, -1e-12], dtype=torch.float64)) @ turn.T
        expected = torch.outer(turn[:, 0], turn[:, 0]) / 2
        assert_close(matrix_power(covariance[None], -0.5, eps=1e-5)[0], expected, rtol=1e-9, atol=1e-9)

    def test_directions_below_a_share_of_the_largest_vanish(self):
        values = torch.tensor([4.0, 1e-3, 1e-5], dtype=torch.float64)
        power = matrix_power(torch.diag(values)[None], -0.5, eps=1e-9, rel_eps=1e-4)[0]
        assert_close(power.diagonal(), torch.tensor([0.5, 1e-3**-0.5, 0.0], dtype=torch.float64), rtol=1e-9, atol=0)

    def test_in_float32_it_is_the_same_to_fewer_digits(self):
        covariance = Moments.of(noise(2, 6, 9, 9)).covariance
        coarse, exact = matrix_power(covariance, 0.5, dtype=torch.float32), matrix_power(covariance, 0.5)
        assert coarse.dtype == torch.float64
        assert_close(coarse, exact, rtol=1e-4, atol=1e-4)
        assert not torch.equal(coarse, exact)

    def test_what_is_no_number_is_refused(self):
        with pytest.raises(ValueError, match="not finite"):
            matrix_power(torch.full((1, 2, 2), torch.nan), 0.5)


class TestWhiteningAndColouring:
    """Check 2 of Collaborative Distillation."""

    @pytest.mark.parametrize("dead", [False, True])
    def test_whitened_features_have_the_projector_onto_the_kept_directions_as_covariance(self, dead: bool):
        content = with_dead_channels(noise(1, 6, 12, 11)) if dead else noise(1, 6, 12, 11)
        own = Moments.of(content).covariance
        whitening = matrix_power(own, -0.5)[0].numpy()
        whitened = whitening @ (flat(content) - flat(content).mean(1, keepdims=True))
        assert np.abs(np.cov(whitened) - projector(own[0].numpy())).max() < 1e-8
        if not dead:
            assert np.abs(np.cov(whitened) - np.eye(6)).max() < 1e-8

    @given(seed=st.integers(0, 999), channels=st.integers(1, 8))
    @settings(max_examples=30, deadline=None)
    def test_the_result_has_the_style_s_mean_and_covariance(self, seed: int, channels: int):
        content, style = noise(1, channels, 9, 13, seed=seed), 3 * noise(1, channels, 8, 7, seed=seed + 1) - 1
        result = Moments.of(wct(content, style, eps=1e-12))
        assert_close(result.mean, Moments.of(style).mean, rtol=1e-8, atol=1e-8)
        assert_close(result.covariance, Moments.of(style).covariance, rtol=1e-6, atol=1e-8)

    def test_where_the_content_has_no_spread_the_result_has_none(self):
        content, style = with_dead_channels(noise(1, 6, 12, 11)), noise(1, 6, 10, 10, seed=5)
        result = Moments.of(wct(content, style))
        kept = projector(Moments.of(content).covariance[0].numpy())
        style_covariance = Moments.of(style).covariance
        root = matrix_power(style_covariance, 0.5)[0].numpy()
        assert_close(result.mean, Moments.of(style).mean, rtol=1e-8, atol=1e-8)
        assert_close(result.covariance[0], torch.from_numpy(root @ kept @ root), rtol=1e-7, atol=1e-7)

    def test_equals_the_paper_s_formula_position_by_position(self):
        content, style = noise(1, 5, 6, 7), noise(1, 5, 9, 4, seed=1)
        values_c, vectors_c = np.linalg.eigh(np.cov(flat(content)))
        values_s, vectors_s = np.linalg.eigh(np.cov(flat(style)))
        centred = flat(content) - flat(content).mean(1, keepdims=True)
        whitened = vectors_c @ np.diag(values_c**-0.5) @ vectors_c.T @ centred
        expected = vectors_s @ np.diag(values_s**0.5) @ vectors_s.T @ whitened + flat(style).mean(1, keepdims=True)
        assert np.abs(flat(wct(content, style)) - expected).max() < 1e-9

    def test_shrink_is_added_to_the_content_s_diagonal(self):
        content, style = Moments.of(noise(1, 4, 6, 7)), Moments.of(noise(1, 4, 9, 4, seed=1))
        values, vectors = np.linalg.eigh(content.covariance[0].numpy() + np.eye(4))
        whitening = vectors @ np.diag(values**-0.5) @ vectors.T
        expected = matrix_power(style.covariance, 0.5)[0] @ torch.from_numpy(whitening)
        assert_close(wct_map(content, style, shrink=1.0).matrix[0], expected, rtol=1e-9, atol=1e-9)

    def test_pictures_of_a_batch_do_not_see_each_other(self):
        content, style = noise(3, 4, 6, 7), noise(3, 4, 5, 5, seed=1)
        alone = torch.cat([wct(content[n : n + 1], style[n : n + 1]) for n in range(3)])
        assert_close(wct(content, style), alone, rtol=1e-10, atol=1e-10)


def test_features_in_their_own_style_stay_what_they_are():
    """Check 3 of Collaborative Distillation."""
    features = noise(1, 6, 12, 11)
    error = (wct(features, features) - features).norm() / features.norm()
    assert error < 1e-10


def test_a_blend_at_0_changes_nothing_bit_for_bit_and_at_1_is_the_map():
    """Check 3 of Collaborative Distillation."""
    features = noise(1, 6, 12, 11).float()
    affine = wct_map(Moments.of(features), Moments.of(noise(1, 6, 5, 5, seed=1)))
    assert torch.equal(affine.blended(0)(features), features)
    assert torch.equal(affine.blended(1)(features), affine(features))
    halfway = (affine(features.double()) + features.double()) / 2
    assert_close(affine.blended(0.5)(features.double()), halfway, rtol=1e-10, atol=1e-10)


def test_an_affine_map_is_the_same_product_at_every_position():
    features = noise(2, 3, 4, 5)
    random = torch.Generator().manual_seed(0)
    affine = AffineMap(torch.randn(2, 3, 3, generator=random), torch.randn(2, 3, generator=random))
    mapped = affine(features)
    for n in range(2):
        for y in range(4):
            for x in range(5):
                expected = affine.matrix[n].double() @ features[n, :, y, x] + affine.bias[n].double()
                assert_close(mapped[n, :, y, x], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "content",
    [
        with_dead_channels(noise(1, 6, 12, 11)),
        torch.zeros(1, 6, 4, 4, dtype=torch.float64),
        torch.full((1, 6, 4, 4), 7.0, dtype=torch.float64),
        noise(1, 6, 1, 1),
        noise(1, 6, 1, 2),
    ],
    ids=["dead-channels", "black", "constant", "one-position", "fewer-positions-than-channels"],
)
@pytest.mark.parametrize("swapped", [False, True], ids=["content", "style"])
def test_features_of_deficient_rank_give_finite_results(content: Tensor, swapped: bool):
    """Check 4 of Collaborative Distillation."""
    full = noise(1, 6, 9, 9, seed=3)
    for other in (full, content):
        pair = (other, content) if swapped else (content, other)
        for dtype in (torch.float64, torch.float32):
            result = wct(pair[0].to(dtype), pair[1].to(dtype))
            assert result.shape == pair[0].shape
            assert result.isfinite().all()
            mean = pair[1].mean((2, 3))
            assert_close(result.double().mean((2, 3)), mean, rtol=1e-4, atol=1e-4)
