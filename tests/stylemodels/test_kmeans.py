"""k-means: check 8 of Multimodal Style Transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.kmeans import kmeans, means, nearest


def blobs(sizes: tuple[int, ...] = (70, 50, 30), channels: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Well-separated clouds in float64, the largest first, and which cloud each point is of."""
    random = torch.Generator().manual_seed(seed)
    centres = 20 * torch.eye(channels, dtype=torch.float64)[: len(sizes)]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return centres[owner] + torch.randn(len(owner), channels, generator=random, dtype=torch.float64), owner


def noise(count: int, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_check_8_three_clouds_are_found_exactly_and_numbered_by_size():
    """Check 8: for every seed."""
    points, owner = blobs()
    for seed in range(10):
        clusters = kmeans(points, 3, seed=seed)
        assert torch.equal(clusters.labels, owner)
        expected = torch.stack([points[owner == k].mean(0) for k in range(3)])
        assert_close(clusters.centres, expected, rtol=1e-10, atol=1e-10)
        assert clusters.inertia == pytest.approx(float((points - expected[owner]).square().sum()))


def test_check_8_other_orders_of_the_points_give_the_same_partition():
    """Check 8."""
    points, owner = blobs()
    for seed in range(5):
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(kmeans(points[order], 3).labels, owner[order])


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_check_8_all_labels_are_used_and_the_largest_come_first(count: int):
    """Check 8."""
    sizes = torch.bincount(kmeans(noise(300), count).labels)
    assert len(sizes) == count
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes.min() > 0


def test_check_8_a_seed_says_everything():
    """Check 8: deterministic."""
    points = noise(300)
    first, second = kmeans(points, 6, seed=4), kmeans(points, 6, seed=4)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centres, second.centres)
    assert not torch.equal(first.centres, kmeans(points, 6, seed=5).centres)


def test_everyone_is_with_the_nearest_centre_and_centres_are_means():
    points = noise(300)
    clusters = kmeans(points, 5, iterations=1000)
    squares = ((points[:, None] - clusters.centres) ** 2).sum(-1)
    assert torch.equal(clusters.labels, squares.argmin(1))
    assert clusters.inertia == pytest.approx(float(squares.min(1).values.sum()))
    expected = np.stack([points[clusters.labels == k].numpy().mean(0) for k in range(5)])
    assert np.abs(clusters.centres.numpy() - expected).max() < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centres_of_many_channels_go_on_until_they_have_arrived(seed: int):
    """Within the share of a channel's variance at which the published code stops, not of all channels together."""
    points = noise(3000, channels=128, seed=seed)
    found = kmeans(points, 4, iterations=1000)
    means = torch.stack([points[found.labels == k].mean(0) for k in range(4)])
    assert (found.centres - means).square().sum() < 1e-3 * points.var(0).mean()


def test_of_several_starts_the_best_counts():
    points = noise(200, seed=3)
    assert kmeans(points, 8, inits=10).inertia < kmeans(points, 8, inits=1).inertia


def test_of_many_points_some_say_where_the_centres_are_and_all_are_assigned():
    points, owner = blobs((700, 500, 300))
    clusters = kmeans(points, 3, max_samples=60)
    assert torch.equal(clusters.labels, owner)
    assert not torch.allclose(clusters.centres[0], points[owner == 0].mean(0), atol=1e-6)


def test_check_11_fewer_different_points_give_fewer_clusters():
    """Check 11: K beyond the number of distinct vectors."""
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    clusters = kmeans(points, 5)
    assert clusters.labels.tolist() == [0, 0, 1, 0]
    assert_close(clusters.centres, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert kmeans(torch.zeros(9, 3), 4).labels.tolist() == [0] * 9


def test_an_empty_cluster_goes_where_points_are_farthest_from_their_centres():
    points = torch.tensor([[0.0], [1.0], [10.0], [2.0]])
    centres = torch.tensor([[1.0], [500.0]])
    moved = means(points, *nearest(points, centres), centres)
    assert moved.tolist() == [[3.25], [10.0]]


def test_a_large_common_mean_costs_no_digits():
    points, owner = blobs()
    assert torch.equal(kmeans((points + 1e4).float(), 3).labels, owner)


def test_no_cluster_and_no_point_are_refused():
    with pytest.raises(ValueError, match="0 clusters of 4 points"):
        kmeans(torch.ones(4, 2), 0)
    with pytest.raises(ValueError, match="3 clusters of 0 points"):
        kmeans(torch.ones(0, 2), 3)
