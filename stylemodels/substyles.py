"""Several sub-styles in one picture: a style's positions in clusters, and each part of the content in one of them.

    mu_1 ... mu_K = k-means over the style's positions
    D_p(k) = 1 - cos(F_c[p], mu_k),  V(a, b) = lambda [a != b],  labels of least energy by alpha-expansion
    F_cs = statistics of cluster k for the content positions of label k, for every k

Everything but the cut goes by pieces of the content too, so that a picture drawn in tiles is the whole one's equal.
Source: Zhang et al. 2019 (arXiv:1904.04443), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stylemodels.features import at_least_float32
from stylemodels.graphcut import Floats, Labelling, alpha_expansion, chain, energy, grid, linear, potts
from stylemodels.kmeans import kmeans
from stylemodels.settings import setting
from stylemodels.whitening import AffineMap, Moments, adain_map, wct_map

EIG_FLOOR = 1e-8  # eigenvalues up to it are zero, whatever the largest is
LEAST_NORM = 1e-8  # features of flat areas are all zero; then every cluster is as far, and the neighbours decide
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """How styles are divided and given to parts of the content, in training and at work."""

    n_clusters: int = setting(3, "K, sub-styles of a style; 1 is plain WCT or AdaIN", ge=1, le=16)
    smooth_lambda: float = setting(0.1, "lambda, the cost of two neighbours in different sub-styles", ge=0, le=10)
    alpha: float = setting(1.0, "0 keeps the content's own features, 1 takes the style", ge=0, le=1)
    max_cycles: int = setting(3, "rounds of alpha-expansion over the labels; 0 = until none helps", ge=0)
    matcher: Literal["graphcut", "argmin"] = setting("graphcut", "argmin: every position for itself, at no cost")
    neighbourhood: Literal["grid4", "chain"] = setting(
        "grid4", "chain: as the authors' code, one row of positions and labels with a distance by number"
    )
    transform: Literal["wct", "adain"] = setting("wct", "what a group takes over: covariance, or channel deviations")
    min_cluster_size: int = setting(2, "groups of fewer positions take AdaIN, single ones the mean alone", ge=2)
    kmeans_metric: Literal["euclidean", "spherical"] = setting(
        "euclidean", "spherical: clusters by direction, which is what the content is compared by"
    )
    kmeans_iters: int = setting(50, "most iterations of k-means", ge=1, le=1000)
    kmeans_inits: int = setting(1, "starts of k-means, of which the best counts", ge=1, le=10)
    kmeans_max_samples: int = setting(16_384, "style positions that k-means fits, drawn evenly", ge=16, le=1 << 20)
    kmeans_seed: int = setting(0, "of its starts and samples", ge=0)
    eig_rel_eps: float = setting(1e-5, "eigenvalues up to this share of the largest count as zero", ge=0, lt=1)
    eig_dtype: Literal["float64", "float32"] = setting("float64", "of eigendecompositions; float32 is faster")


class SubStyle(NamedTuple):
    """A cluster of a style's positions."""

    centre: Tensor  # (C,)
    moments: Moments
    alpha: float  # how far the content goes towards it
    style: int  # whose mask says where it may be


class Recombined(NamedTuple):
    """Content features in their sub-styles, and how they came to them."""

    features: Tensor  # (1, C, h, w)
    labels: Tensor  # (h, w), int64
    costs: Tensor  # (K, h, w), the data term
    energies: tuple[float, ...]  # of every position's own best label, and after each cycle


def sub_styles(
    pools: Sequence[Tensor], s: Grouping, *, chosen: Sequence[int] = (), alphas: Sequence[float] = ()
) -> list[SubStyle]:
    """The clusters of every pool of style positions (P, C).

    chosen: numbers from 1 of those that may be used; none: all. alphas: shares of alpha, by number; 1 for the others.
    Where a pool has fewer clusters, as one that is all the same, what is said of the others is left out.
    Raises ValueError for numbers beyond `n_clusters`.
    """
    for name, most in (("clusters", max(chosen, default=0)), ("cluster_alphas", len(alphas))):
        if most > s.n_clusters:
            raise ValueError(f"{name}: there is no sub-style {most}, n_clusters is {s.n_clusters}")
    found = []
    for number, pool in enumerate(pools):
        points = normalize(pool, dim=1, eps=LEAST_NORM) if s.kmeans_metric == "spherical" else pool
        clusters = kmeans(
            points,
            s.n_clusters,
            inits=s.kmeans_inits,
            iterations=s.kmeans_iters,
            max_samples=s.kmeans_max_samples,
            seed=s.kmeans_seed,
        )
        there = range(len(clusters.centres))
        for k in [k for k in there if k + 1 in chosen] or there:
            members = Moments.of(as_map(pool[clusters.labels == k]))
            alpha = s.alpha * (alphas[k] if k < len(alphas) else 1.0)
            found.append(SubStyle(clusters.centres[k], members, alpha, number))
    return found


def distances(features: Tensor, subs: Sequence[SubStyle]) -> Tensor:
    """The data term: cosine distances of every position of (1, C, h, w) to every centre, (K, h, w), float64, CPU."""
    vectors = normalize(at_least_float32(features), dim=1, eps=LEAST_NORM)
    centres = normalize(torch.stack([sub.centre for sub in subs]), dim=1, eps=LEAST_NORM)
    with torch.autocast(features.device.type, enabled=False):
        cosines = torch.einsum("chw,kc->khw", vectors[0], centres.to(vectors))
    return 1.0 - cosines.cpu().double()


def forbidden(subs: Sequence[SubStyle], shares: Sequence[Tensor], s: Grouping) -> Tensor:
    """What a position pays for the sub-styles of a style that its mask does not give it: (K, h, w), float64, CPU.

    shares: each style's, (1, 1, h, w), of sum 1. More than data term and neighbours can be worth together: a chain has
    two, whose labels may be far apart in number.
    """
    absent = torch.stack([1 - shares[sub.style][0, 0] for sub in subs])
    neighbours = 4 if s.neighbourhood == "grid4" else 2 * (len(subs) - 1)
    return 2 * (1 + neighbours * s.smooth_lambda) * absent.cpu().double()


def costs_of(features: Tensor, subs: Sequence[SubStyle], shares: Sequence[Tensor], s: Grouping) -> Tensor:
    """What each position of (1, C, h, w) pays for each label: (K, h, w). shares: as for `recombined`."""
    costs = distances(features, subs)
    return costs + forbidden(subs, shares, s) if shares else costs


def matched(costs: Tensor, s: Grouping) -> Labelling:
    """A label for every position, from the data term (K, h, w)."""
    count, height, width = costs.shape
    flat: Floats = costs.flatten(1).T.numpy()
    if s.neighbourhood == "grid4":
        neighbours, pairwise = grid(height, width), potts(count, s.smooth_lambda)
    else:
        neighbours, pairwise = chain(height * width), linear(count, s.smooth_lambda)
    if s.matcher == "argmin":
        labels = flat.argmin(1)
        return Labelling(labels, (energy(flat, labels, neighbours, pairwise),))
    return alpha_expansion(flat, neighbours, pairwise, max_cycles=s.max_cycles)


def group_map(own: Moments, painted: Moments, s: Grouping) -> AffineMap:
    """What takes the content positions of a label to the statistics of its cluster.

    Below C + 1 positions, the normal case in training, a covariance lacks directions: those are dropped, so the result
    has the cluster's covariance only as far as the group has a spread. Two positions have one, a single one has none.
    """
    fewer = min(own.positions, painted.positions)
    if fewer < 2:
        identity = torch.eye(own.mean.shape[1], dtype=torch.float64, device=own.mean.device)
        return AffineMap(identity[None], painted.mean - own.mean)
    if s.transform == "adain" or fewer < s.min_cluster_size:
        return adain_map(own, painted)
    return wct_map(own, painted, eps=EIG_FLOOR, rel_eps=s.eig_rel_eps, dtype=DTYPES[s.eig_dtype])


def maps_of(groups: Sequence[Moments], subs: Sequence[SubStyle], s: Grouping) -> list[AffineMap | None]:
    """For each label the map of its group; None where nobody has it or nothing would change."""
    return [
        group_map(own, sub.moments, s).blended(sub.alpha) if own.positions and sub.alpha > 0 else None
        for own, sub in zip(groups, subs, strict=True)
    ]


def count_groups(groups: Sequence[Moments], features: Tensor, labels: Tensor) -> None:
    """Add the positions of (1, C, h, w) to the moments of their labels (h, w)."""
    for k, own in enumerate(groups):
        if (members := labels == k).any():
            own.add(features[:, :, members][:, :, None])


def mapped(features: Tensor, labels: Tensor, maps: Sequence[AffineMap | None]) -> Tensor:
    """Every position of (1, C, h, w) through the map of its label (h, w)."""
    result = features.clone()
    for k, affine in enumerate(maps):
        members = labels == k
        if affine is not None and members.any():
            result[:, :, members] = affine(features[:, :, members][:, :, None])[:, :, 0]
    return result


def recombined(features: Tensor, subs: Sequence[SubStyle], shares: Sequence[Tensor], s: Grouping) -> Recombined:
    """Content features (1, C, h, w), each position in the statistics of its sub-style.

    shares: of each style, where masks say so, (1, 1, h, w); else none.
    """
    features = at_least_float32(features)
    costs = costs_of(features, subs, shares, s)
    labelling = matched(costs, s)
    labels = torch.from_numpy(labelling.labels).view(features.shape[-2:]).to(features.device)
    groups = [Moments() for _ in subs]
    count_groups(groups, features, labels)
    return Recombined(mapped(features, labels, maps_of(groups, subs, s)), labels, costs, labelling.energies)


def rows(features: Tensor) -> Tensor:
    """(1, C, h, w) -> (P, C)."""
    return at_least_float32(features)[0].flatten(1).T


def as_map(vectors: Tensor) -> Tensor:
    """(P, C) -> (1, C, 1, P)."""
    return vectors.T[None, :, None]


def coloured(labels: Tensor, count: int) -> Tensor:
    """A label map (h, w) as a picture (1, 3, h, w) in [0, 1]: colours that differ, the same for the same `count`."""
    hue = torch.arange(count)[:, None] / count + torch.tensor([0.0, 2 / 3, 1 / 3])
    palette = 0.5 + 0.45 * torch.cos(2 * math.pi * hue)
    palette[1::2] *= 0.6  # neighbours in number differ in brightness too
    return palette.to(labels.device)[labels].permute(2, 0, 1)[None]
