"""k-means without chance, against its own definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.clusters import far_apart, kmeans


def heaps(*middles: tuple[float, ...], size: int = 20) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.cat([torch.tensor(m) + 0.1 * torch.randn(size, len(m), generator=random) for m in middles])


@pytest.mark.parametrize("middles", [((0.0,), (1.0,), (3.0,)), ((0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (5.0, 5.0))])
def test_heaps_that_lie_apart_are_found(middles: tuple[tuple[float, ...], ...]):
    points = heaps(*middles)
    found = kmeans(points, len(middles))
    for number in range(len(middles)):
        own = slice(20 * number, 20 * number + 20)
        (label,) = found.labels[own].unique().tolist()
        assert_close(found.centres[label], points[own].double().mean(0))


def test_check_10_two_runs_give_the_same_bits_and_the_global_random_state_is_untouched():
    points = heaps((0.0, 0.0), (0.3, 0.1), (0.1, 0.3))
    state = torch.get_rng_state()
    first, second = kmeans(points, 5), kmeans(points, 5)
    assert torch.equal(first.centres, second.centres)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(torch.get_rng_state(), state)


def test_at_the_end_every_point_is_with_its_nearest_centre_and_every_centre_is_its_points_mean():
    points = heaps((0.0, 0.0), (0.3, 0.1), (0.1, 0.3), size=50)
    centres, labels = kmeans(points, 4, rounds=1000)
    distances = (points.double()[:, None] - centres).norm(dim=2)
    assert torch.equal(distances.argmin(1), labels)
    for number, centre in enumerate(centres):
        assert_close(centre, points[labels == number].double().mean(0))


def test_more_clusters_than_different_points_coincide_and_stay_finite():
    """Check 11: no empty cluster turns into a number that is none."""
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    centres, labels = kmeans(points, 4)
    assert sorted(centres[:, 0].unique().tolist()) == [0, 1]
    assert labels[:3].unique().numel() == 1
    assert labels[3] != labels[0]
    assert kmeans(torch.full((5, 2), 0.5), 3).centres.unique().tolist() == [0.5]


def test_the_start_is_spread_out():
    points = torch.arange(9.0)[:, None]
    assert sorted(far_apart(points, 3)[:, 0].tolist()) == [0, 4, 8]


@pytest.mark.parametrize(("shape", "count"), [((0, 2), 3), ((4, 2), 0), ((4,), 2)])
def test_no_points_or_no_clusters_are_refused(shape: tuple[int, ...], count: int):
    with pytest.raises(ValueError, match=f"clusters: {count} were asked for"):
        kmeans(torch.zeros(shape), count)
