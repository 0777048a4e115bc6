"""Sub-styles: checks 4 to 8 and 11 of Multimodal Style Transfer, as far as they are about features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.features import adain
from stylemodels.graphcut import chain, energy, grid, linear, potts
from stylemodels.substyles import (
    Grouping,
    Recombined,
    SubStyle,
    coloured,
    distances,
    group_map,
    matched,
    recombined,
    rows,
    sub_styles,
)
from stylemodels.whitening import Moments, matrix_power


def features(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Non-negative, with three areas of their own mean: (1, channels, height, width), float64."""
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(1, channels, height, width, generator=random, dtype=torch.float64)
    area = 3 * torch.arange(width) // width
    return (values + 2 * torch.rand(3, channels, generator=random, dtype=torch.float64).T[:, None][:, :, area]).relu()


def given(style: Tensor, **settings: Any) -> list[SubStyle]:
    return sub_styles([rows(style)], Grouping(**settings))


def drawn(content: Tensor, style: Tensor, **settings: Any) -> Recombined:
    return recombined(content, given(style, **settings), (), Grouping(**settings))


def columns(values: Tensor) -> np.ndarray:
    """(1, C, h, w) -> (C, P)."""
    return values[0].flatten(1).numpy()


def whitened_and_coloured(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Step 5 of the paper's method, written out for columns (C, P) by singular values."""
    result = []
    centred = [side - side.mean(1, keepdims=True) for side in (content, style)]
    for side, power in zip(centred, (-1.0, 1.0), strict=True):
        vectors, values, _ = np.linalg.svd(side / np.sqrt(side.shape[1] - 1), full_matrices=False)
        kept = values**2 > max(1e-5 * values[0] ** 2, 1e-8)
        result.append(vectors[:, kept] @ np.diag(values[kept] ** power) @ vectors[:, kept].T)
    whitening, colouring = result
    return colouring @ whitening @ centred[0] + style.mean(1, keepdims=True)


# --- the data term and the labels ------------------------------------------------------------------------------------


def test_the_data_term_is_one_minus_the_cosine_to_each_centre():
    content, subs = features(6, 4, 5), given(features(6, 7, 9, seed=1))
    found = distances(content, subs)
    for k, sub in enumerate(subs):
        for y in range(4):
            for x in range(5):
                own, centre = content[0, :, y, x].numpy(), sub.centre.numpy()
                cosine = own @ centre / np.linalg.norm(own) / np.linalg.norm(centre)
                assert found[k, y, x] == pytest.approx(1 - cosine, abs=1e-12)


def test_check_11_positions_without_features_are_as_far_from_every_centre():
    """Check 11: all-zero features; the neighbours decide."""
    content, subs = features(6, 4, 5), given(features(6, 7, 9, seed=1))
    content[..., 2] = 0
    assert torch.equal(distances(content, subs)[..., 2], torch.ones(3, 4, dtype=torch.float64))


def test_labels_are_those_of_the_graph_cut_on_the_grid():
    costs = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = costs.permute(1, 2, 0).reshape(42, 3).numpy()
    cut = matched(costs, Grouping(smooth_lambda=0.3, max_cycles=0))
    assert cut.energies[0] == pytest.approx(energy(flat, flat.argmin(1), grid(6, 7), potts(3, 0.3)))
    assert cut.energies[-1] == pytest.approx(energy(flat, cut.labels, grid(6, 7), potts(3, 0.3)))
    assert cut.energies[-1] < cut.energies[0]
    row = matched(costs, Grouping(smooth_lambda=0.3, neighbourhood="chain"))
    assert row.energies[-1] == pytest.approx(energy(flat, row.labels, chain(42), linear(3, 0.3)))
    alone = matched(costs, Grouping(smooth_lambda=0.3, matcher="argmin"))
    assert np.array_equal(alone.labels, flat.argmin(1))
    assert alone.energies == (cut.energies[0],)


def test_cycles_of_the_cut_and_rounds_of_the_clustering_can_be_limited():
    costs = torch.rand(5, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, once = (matched(costs, Grouping(smooth_lambda=0.3, max_cycles=most)) for most in (0, 1))
    assert len(whole.energies) > 2
    assert once.energies == whole.energies[:2]
    style = features(6, 20, 30)
    hurried, settled = (torch.stack([sub.centre for sub in given(style, kmeans_iters=most)]) for most in (1, 50))
    assert not torch.allclose(hurried, settled, atol=1e-3)


# --- 4: whitening ----------------------------------------------------------------------------------------------------


def whitening_of(positions: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The covariance of whitened columns, and that of the result in the style of as many other ones."""
    random = torch.Generator().manual_seed(0)
    mix = torch.randn(channels, channels, generator=random, dtype=torch.float64) / channels**0.5
    own, style = ((mix @ torch.randn(channels, positions, generator=random).double())[None, :, None] for _ in range(2))
    moments = Moments.of(own)
    root = matrix_power(moments.covariance, -0.5, 1e-8, rel_eps=1e-10)
    whitened = np.cov((root[0] @ own[0, :, 0]).numpy())
    s = Grouping(eig_rel_eps=1e-10)
    result = Moments.of(group_map(moments, Moments.of(style), s)(own))
    assert_close(result.mean, Moments.of(style).mean, rtol=1e-8, atol=1e-8)
    error = (result.covariance - Moments.of(style).covariance).norm() / Moments.of(style).covariance.norm()
    return whitened, error.numpy()


def test_check_4_a_large_group_gets_the_style_s_covariance():
    """Check 4: 3,000 positions of 48 channels."""
    whitened, error = whitening_of(3000, 48)
    assert np.abs(whitened - np.eye(48)).max() < 1e-8
    assert error < 1e-8


def test_check_4_of_a_small_group_whitening_makes_a_projector():
    """Check 4: 300 positions of 512 channels have 299 directions; the result misses the others' share."""
    projector, error = whitening_of(300, 512)
    assert np.abs(projector @ projector - projector).max() < 1e-8
    assert np.trace(projector) == pytest.approx(299, abs=1e-6)
    assert 0.1 < error < 1


# --- 5 to 7: what is put together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["wct", "adain"])
def test_check_5_in_its_own_style_nothing_changes(transform: Any):
    """Check 5: K = 1, where content and style positions are the same."""
    content = features(8, 6, 9)
    assert_close(drawn(content, content, n_clusters=1, transform=transform).features, content, rtol=1e-4, atol=1e-4)


def test_check_5_with_clusters_by_direction_every_group_is_its_own_style():
    """Check 5: K = 3; on spherical clusters cosine labels are the clusters' own."""
    content = features(8, 12, 18)
    found = drawn(content, content, kmeans_metric="spherical", smooth_lambda=0.0, kmeans_iters=1000)
    assert len(found.labels.unique()) == 3
    assert_close(found.features, content, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(6, 9), (2, 3)], ids=["more-positions", "fewer-than-channels"])
def test_check_6_one_cluster_is_plain_whitening_and_colouring(height: int, width: int):
    """Check 6: against singular values, also of deficient rank."""
    content, style = features(8, height, width), features(8, 5, 4, seed=1)
    expected = whitened_and_coloured(columns(content), columns(style))
    assert np.abs(columns(drawn(content, style, n_clusters=1).features) - expected).max() < 1e-7


def test_check_6_one_cluster_with_adain_is_adain():
    """Check 6."""
    content, style = features(8, 6, 9), features(8, 5, 4, seed=1)
    found = drawn(content, style, n_clusters=1, transform="adain")
    assert_close(found.features, adain(content, style), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", ["wct", "adain"])
def test_every_group_is_transformed_by_itself(transform: Any):
    """Check 12: and has its sub-style's mean then."""
    content, style = features(5, 9, 12), features(5, 10, 11, seed=4)
    subs = given(style, transform=transform)
    found = recombined(content, subs, (), Grouping(transform=transform, smooth_lambda=0.01))
    labels = found.labels.flatten().numpy()
    assert len(set(labels.tolist())) > 1
    for k in set(labels.tolist()):
        group = columns(found.features)[:, labels == k]
        assert np.abs(group.mean(1) - subs[k].moments.mean[0].numpy()).max() < 1e-9
        alone = torch.from_numpy(columns(content)[:, labels == k])[None, :, None]
        expected = group_map(Moments.of(alone), subs[k].moments, Grouping(transform=transform))(alone)
        assert np.abs(group - expected[0, :, 0].numpy()).max() < 1e-9


def test_check_7_alpha_goes_from_the_content_bit_for_bit_to_the_style():
    """Check 7."""
    content, style = features(8, 6, 9).float(), features(8, 5, 4, seed=1).float()
    ends = [drawn(content, style, alpha=alpha).features for alpha in (0.0, 0.5, 1.0)]
    assert torch.equal(ends[0], content)
    assert_close(ends[1], (ends[0] + ends[2]) / 2, rtol=1e-5, atol=1e-5)


def test_check_7_at_alpha_0_no_covariance_is_decomposed(monkeypatch: pytest.MonkeyPatch):
    """Check 7: the transform is not even called."""
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert torch.equal(drawn(features(8, 6, 9), features(8, 5, 4), alpha=0.0).features, features(8, 6, 9))


def test_sub_styles_can_be_left_out_and_dosed_by_number():
    content, style = features(8, 9, 12), features(8, 10, 11, seed=1)
    s, pool = Grouping(alpha=0.8), [rows(style)]
    every = sub_styles(pool, s)
    sizes = [sub.moments.positions for sub in every]
    assert sizes == sorted(sizes, reverse=True)
    some = sub_styles(pool, s, chosen=(3, 1))
    assert [sub.moments.positions for sub in some] == [sizes[0], sizes[2]]
    assert [sub.alpha for sub in sub_styles(pool, s, alphas=(0.0, 0.5))] == [0.0, 0.4, 0.8]
    dosed = recombined(content, sub_styles(pool, s, alphas=(0.0, 1.0, 0.0)), (), s)
    changed = (dosed.features != content).any(1)[0]
    assert torch.equal(changed, dosed.labels == 1)


@pytest.mark.parametrize(
    ("asked", "name"), [({"chosen": (4,)}, "clusters"), ({"alphas": (1.0,) * 4}, "cluster_alphas")]
)
def test_a_number_beyond_the_clusters_is_refused(asked: Any, name: str):
    with pytest.raises(ValueError, match=f"{name}: there is no sub-style 4, n_clusters is 3"):
        sub_styles([rows(features(8, 5, 4))], Grouping(), **asked)


@pytest.mark.parametrize("neighbourhood", ["grid4", "chain"])
def test_masks_shut_out_the_sub_styles_of_other_pictures(neighbourhood: Any):
    """Stripes of the first and the third, whose labels are the farthest apart on a chain."""
    content, pools = features(8, 8, 12), [rows(features(8, 10, 11, seed=n)) for n in (1, 2, 3)]
    stripes = torch.zeros(1, 1, 8, 12)
    stripes[..., ::3] = 1
    s = Grouping(n_clusters=8, smooth_lambda=0.5, neighbourhood=neighbourhood)
    subs = sub_styles(pools, s)
    found = recombined(content, subs, [stripes, torch.zeros_like(stripes), 1 - stripes], s)
    owner = torch.tensor([sub.style for sub in subs])[found.labels]
    assert torch.equal(owner, 2 - 2 * stripes[0, 0].long())


# --- 11: degenerate inputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["wct", "adain"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_check_11_degenerate_features_give_finite_ones(transform: Any, dtype: Any):
    """Check 11: flat, black, single positions, fewer vectors than clusters, on either side."""
    plain = features(6, 5, 4).float()
    odd = [torch.full((1, 6, 3, 4), 0.3), torch.zeros(1, 6, 3, 4), plain[..., :1, :1], plain[..., :1, :2]]
    for content, style in [pair for other in odd for pair in ((plain, other), (other, plain), (other, other))]:
        found = drawn(content, style, transform=transform, eig_dtype=dtype).features
        assert found.shape == content.shape
        assert found.isfinite().all()


def test_check_11_a_group_of_one_position_moves_by_the_means():
    """Check 11: X - m_c + m_s, so it lands on its sub-style's mean."""
    content = features(6, 1, 1)
    subs = given(features(6, 5, 4, seed=1))
    found = recombined(content, subs, (), Grouping())
    assert_close(found.features[0, :, 0, 0], subs[int(found.labels)].moments.mean[0])


def test_check_11_what_rounding_leaves_of_a_flat_area_is_not_taken_for_texture():
    """Check 11: below the absolute floor under the eigenvalues, however they compare to the largest."""
    style, noise = features(6, 5, 4, seed=1), 1e-6 * features(6, 3, 4)
    flat = torch.full_like(noise, 0.3)
    s = {"n_clusters": 1}
    assert_close(drawn(flat + noise, style, **s).features, drawn(flat, style, **s).features, rtol=0, atol=1e-4)


def test_small_groups_take_adain():
    own, style = features(6, 3, 3), features(6, 5, 4, seed=1)
    pair = Moments.of(own), Moments.of(style)
    assert_close(group_map(*pair, Grouping(min_cluster_size=10))(own), adain(own, style))
    assert not torch.allclose(group_map(*pair, Grouping(min_cluster_size=9))(own), adain(own, style), atol=1e-3)


def test_a_style_that_is_all_the_same_has_one_sub_style_whatever_is_asked():
    flat = torch.full((1, 6, 3, 4), 0.3)
    subs = sub_styles([rows(flat)], Grouping(n_clusters=5), chosen=(4, 5), alphas=(0.5,) * 5)
    assert [(sub.moments.positions, sub.alpha) for sub in subs] == [(12, 0.5)]


@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_label_map_has_a_colour_of_its_own_for_every_label(count: int):
    labels = torch.arange(count)[None].repeat(2, 1)
    picture = coloured(labels, count)
    assert picture.shape == (1, 3, 2, count)
    assert 0 <= picture.min() <= picture.max() <= 1
    assert len({tuple(picture[0, :, 0, k].tolist()) for k in range(count)}) == count
