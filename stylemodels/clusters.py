"""Clusters of points, the same at every run and on every machine: no random start."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """Groups of points around their means."""

    centres: Tensor  # (K, D), float64
    labels: Tensor  # (N,) int64: each point's nearest centre, of equally near ones the first


def kmeans(points: Tensor, count: int, *, rounds: int = 80) -> Clusters:
    """`count` clusters of `points` (N, D) by Lloyd's rounds, until no point changes its cluster or after `rounds`.

    A cluster that has lost all its points keeps its centre; with fewer different points than `count`, centres
    coincide. Raises ValueError for no points or `count` below 1.
    Sources: Lloyd 1982 (Least squares quantization in PCM); the start, Gonzalez 1985 (Clustering to minimize the
    maximum intercluster distance).
    """
    if points.ndim != 2 or len(points) == 0 or count < 1:
        raise ValueError(f"clusters: {count} were asked for of points of shape {tuple(points.shape)}")
    points = points.double()
    centres = far_apart(points, count)
    labels = nearest(points, centres)
    for _ in range(rounds):
        members = torch.nn.functional.one_hot(labels, count).to(points).T
        sizes = members.sum(1, keepdim=True)
        centres = torch.where(sizes > 0, members @ points / sizes.clamp_min(1), centres)
        before, labels = labels, nearest(points, centres)
        if torch.equal(before, labels):
            break
    return Clusters(centres, labels)


def far_apart(points: Tensor, count: int) -> Tensor:
    """`count` of `points` (N, D): the farthest from their mean, then always the farthest from those chosen so far."""
    chosen = [distances(points, points.mean(0, keepdim=True))[:, 0].argmax()]
    nearest_chosen = distances(points, points[chosen[0]][None])[:, 0]
    for _ in range(count - 1):
        chosen.append(nearest_chosen.argmax())
        nearest_chosen = nearest_chosen.minimum(distances(points, points[chosen[-1]][None])[:, 0])
    return points[torch.stack(chosen)]


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The number of each point's nearest centre (N,)."""
    return distances(points, centres).argmin(1)


def distances(points: Tensor, centres: Tensor) -> Tensor:
    """From each of (N, D) to each of (K, D): (N, K). Not by way of inner products, which lose what is near."""
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
