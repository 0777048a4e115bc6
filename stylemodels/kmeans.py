"""k-means with k-means++ seeds, the same clusters for the same points and seed.

Sources: Lloyd 1982 (least squares quantization in PCM); Arthur & Vassilvitskii 2007 (k-means++), section 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stylemodels.features import at_least_float32

PIECE = 1 << 16  # points whose distances are held at once
TOLERANCE = 1e-4  # centres that move by less than this share of a channel's variance have arrived, as in scikit-learn


class Clusters(NamedTuple):
    """Centres and who belongs to which, the largest cluster first."""

    centres: Tensor  # (K, C)
    labels: Tensor  # (P,), int64
    inertia: float  # sum of squared distances to the own centre, over the points that were fitted


def kmeans(
    points: Tensor, count: int, *, inits: int = 1, iterations: int = 50, max_samples: int = 16_384, seed: int = 0
) -> Clusters:
    """`count` clusters of `points` (P, C); fewer where there are fewer different points.

    inits: starts, of which the best counts. max_samples: of more points, so many drawn ones say where the centres are.
    Raises ValueError below one cluster or one point.
    """
    if count < 1 or len(points) < 1:
        raise ValueError(f"{count} clusters of {len(points)} points were asked for, there must be one of each")
    random = torch.Generator().manual_seed(seed)
    points = at_least_float32(points)
    fitted = points
    if len(points) > max_samples:
        fitted = points[torch.randperm(len(points), generator=random)[:max_samples].to(points.device)]
    with torch.autocast(points.device.type, enabled=False):
        middle = fitted.mean(0)  # about which distances lose fewer digits
        runs = [lloyd(fitted - middle, count, iterations, random) for _ in range(inits)]
        best = min(runs, key=lambda run: run.inertia)
        labels, _ = nearest(points - middle, best.centres)
    return by_size(Clusters(best.centres + middle, labels, best.inertia))


def lloyd(points: Tensor, count: int, iterations: int, random: torch.Generator) -> Clusters:
    """Centres that no longer move, from one start."""
    centres = seeds(points, count, random)
    arrived = TOLERANCE * float(points.var(0, correction=0).mean())
    for _ in range(iterations):
        moved = means(points, *nearest(points, centres), centres)
        step, centres = float((moved - centres).square().sum()), moved
        if step <= arrived:
            break
    labels, distances = nearest(points, centres)
    return Clusters(centres, labels, float(distances.double().sum()))


def seeds(points: Tensor, count: int, random: torch.Generator) -> Tensor:
    """k-means++: each next one drawn by its squared distance to those before: (K, C), all different."""
    chosen = [int(torch.randint(len(points), (), generator=random))]
    distances = torch.full((len(points),), torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        own = (points - points[chosen[-1]]).square().sum(1)  # exactly 0 between equal points
        distances = torch.minimum(distances, own.cpu().double())
        if not distances.any():
            break
        chosen.append(int(torch.multinomial(distances, 1, generator=random)))
    return points[chosen]


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The closest centre of every point, and the squared distance to it: (P,) each."""
    labels, distances = [], []
    for piece in torch.split(points, PIECE):
        products = centres.square().sum(1) - 2 * piece @ centres.T
        least, label = products.min(1)
        labels.append(label)
        distances.append((least + piece.square().sum(1)).clamp_min(0))
    return torch.cat(labels), torch.cat(distances)


def means(points: Tensor, labels: Tensor, distances: Tensor, centres: Tensor) -> Tensor:
    """The mean of every cluster; an empty one goes to the points that are farthest from their centres."""
    members = one_hot(labels, len(centres)).to(points)  # a product adds up in the same order every time
    counts = members.sum(0)
    moved = members.T @ points / counts.clamp_min(1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    moved[empty] = points[distances.topk(len(empty)).indices]
    return moved


def by_size(clusters: Clusters) -> Clusters:
    """The same without empty clusters, renumbered so that the largest is the first."""
    sizes = torch.bincount(clusters.labels, minlength=len(clusters.centres))
    order = sizes.argsort(descending=True, stable=True)
    order = order[sizes[order] > 0]
    rank = torch.zeros_like(sizes)
    rank[order] = torch.arange(len(order), device=order.device)
    return Clusters(clusters.centres[order], rank[clusters.labels], clusters.inertia)
