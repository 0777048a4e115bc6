"""Feature maps of several scales as one map of all their channels at the finest scale's size, which is never made.

    F' = concat(F_1, U_2 F_2, U_4 F_4, ...)      U_r up-samples r times; the result goes back by average pooling D_r

Its statistics and every linear map of its channels follow from maps of at most the size and channels of a single scale:

    cov'_ij = mean over the positions of j of  (U_j^T U_i / r_j^2)(F_i - mean_i) (F_j - mean_j)^T       i finer than j
    out_k   = bias_k + sum_j T_kj D_k U_j F_j         for mixing channels commutes with resampling positions

By either kernel up-sampling keeps means. With nearest neighbours U_j^T / r_j^2 is average pooling and D_k U_k the
identity: pooling and copying is all it takes.
Scales are given from fine to coarse, each half as large as the one before: (N, C_i, H / 2^i, W / 2^i), H and W
multiples of the coarsest cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from stylemodels.features import at_least_float32
from stylemodels.whitening import AffineMap, Moments

Mode = Literal["intra", "inter"]
Resample = Literal["nearest_avg", "bilinear_avg"]
Scales: TypeAlias = Sequence[Tensor]
T = TypeVar("T")


def groups(scales: Sequence[T], mode: Mode) -> list[list[T]]:
    """What goes together: inter all scales, intra each for itself."""
    return [list(scales)] if mode == "inter" else [[one] for one in scales]


class Statistics(NamedTuple):
    """Of feature vectors, for N pictures at once."""

    mean: Tensor  # (N, C)
    covariance: Tensor  # (N, C, C), divided by the number of positions

    def scaled(self, factors: Tensor) -> Statistics:
        """Of features that are multiplied with `factors` (C,), channel by channel."""
        return Statistics(self.mean * factors, self.covariance * factors[:, None] * factors)

    def to(self, like: Tensor) -> Statistics:
        return Statistics(self.mean.to(like), self.covariance.to(like))


def joint_statistics(scales: Scales, resample: Resample, *, sums: torch.dtype | None = None) -> Statistics:
    """Mean and covariance of F'. Gradients flow; float32 (float64 stays float64) also under autocast.

    sums: of this type is what is added up over the positions, and the result; None: as the features.
    """
    with torch.autocast(scales[0].device.type, enabled=False):
        exact = [at_least_float32(features) for features in scales]
        means, rows = [], []
        for place, features in enumerate(exact):
            met = torch.cat([meeting(exact[i], i, place, resample) for i in range(place + 1)], 1)
            mean, own = centred(features.to(sums))
            means.append(mean)
            rows.append(own @ centred(met.to(sums))[1].transpose(1, 2) / own.shape[2])
        return Statistics(torch.cat(means, 1), symmetric(rows))


def centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, C) of features (N, C, H, W), and what is left without it (N, C, H * W)."""
    flat = features.flatten(2)
    mean = flat.mean(2)
    return mean, flat - mean[..., None]


def symmetric(rows: Sequence[Tensor]) -> Tensor:
    """The symmetric matrix (N, C', C') of which `rows` are the blocks (N, C_j, C_1 + ... + C_j) up to the diagonal."""
    channels = rows[-1].shape[2]
    lower = torch.cat([pad(row, (0, channels - row.shape[2])) for row in rows], 1)
    places = [place for place, row in enumerate(rows) for _ in range(row.shape[1])]
    block = torch.tensor(places, device=lower.device)
    return torch.where(block[:, None] >= block, lower, lower.transpose(1, 2))


class JointMoments:
    """`joint_statistics` with nearest neighbours of features that come in pieces, summed in float64."""

    def __init__(self) -> None:
        self._moments: list[Moments] = []

    @classmethod
    def of(cls, scales: Scales) -> JointMoments:
        moments = cls()
        moments.add(scales)
        return moments

    def add(self, scales: Scales) -> None:
        """Count a piece: all scales of one rectangle, whose corners are multiples of the coarsest cell."""
        self._moments = self._moments or [Moments() for _ in scales]
        for place, moments in enumerate(self._moments):
            moments.add(torch.cat([carried(scales[i], i, place, "nearest_avg") for i in range(place + 1)], 1))

    @property
    def statistics(self) -> Statistics:
        """float64. Raises ValueError when nothing was added."""
        means, rows, before = [], [], 0
        for moments in self._moments:
            own = slice(before, None)
            before = moments.mean.shape[1]
            means.append(moments.mean[:, own])
            rows.append(moments.covariance[:, own] * ((moments.positions - 1) / moments.positions))
        return Statistics(torch.cat(means, 1), symmetric(rows))


class JointMap(NamedTuple):
    """`f -> matrix f + bias` for every position of F', whose result goes back to the scales."""

    matrix: Tensor  # (N, C', C')
    bias: Tensor  # (N, C')

    def __call__(self, scales: Scales, resample: Resample) -> list[Tensor]:
        """`scales` of any real dtype. Returns the same shapes and dtype."""
        widths = [features.shape[1] for features in scales]
        rows = zip(torch.split(self.matrix, widths, 1), torch.split(self.bias, widths, 1), strict=True)
        return [self._at(place, matrix, bias, scales, resample) for place, (matrix, bias) in enumerate(rows)]

    @staticmethod
    def _at(place: int, matrix: Tensor, bias: Tensor, scales: Scales, resample: Resample) -> Tensor:
        """matrix: (N, C_k, C'). Finer scales are pooled before their channels are mixed, coarser ones spread after."""
        finer = torch.cat([carried(scales[j], j, place, resample) for j in range(place + 1)], 1)
        result = AffineMap(matrix[..., : finer.shape[1]], bias)(finer)
        before, nothing = finer.shape[1], torch.zeros_like(bias)
        for j in range(place + 1, len(scales)):
            block = matrix[..., before : before + scales[j].shape[1]]
            result = result + carried(AffineMap(block, nothing)(scales[j]), j, place, resample)
            before += scales[j].shape[1]
        return result


def carried(features: Tensor, source: int, target: int, resample: Resample) -> Tensor:
    """D_target U_source: features of one scale, at the size of another."""
    if resample == "bilinear_avg":
        height, width = features.shape[-2:]
        return features_between(
            features, *(pooled_lines(stretching(side, source, features), target) for side in (height, width))
        )
    if source == target:
        return features
    if source < target:
        return avg_pool2d(features, 1 << (target - source))
    return interpolate(features, scale_factor=1 << (source - target))


def meeting(features: Tensor, source: int, target: int, resample: Resample) -> Tensor:
    """U_target^T U_source / r_target^2: what of a finer scale's features meets each position of a coarser one."""
    if resample == "nearest_avg":
        return carried(features, source, target, resample)
    matrices = []
    for side in features.shape[-2:]:
        there = stretching((side << source) >> target, target, features)
        matrices.append(there.T @ stretching(side, source, features) / (1 << target))
    return features_between(features, *matrices)


def stretching(side: int, place: int, like: Tensor) -> Tensor:
    """U along one side: (side * 2^place, side), linear interpolation between the middles of cells."""
    lines = torch.eye(side, dtype=like.dtype, device=like.device)[None]
    return interpolate(lines, scale_factor=1 << place, mode="linear")[0].T if place else lines[0]


def pooled_lines(matrix: Tensor, place: int) -> Tensor:
    """D after `matrix` (h, w) along one side: the means of each 2^place rows."""
    return matrix.reshape(-1, 1 << place, matrix.shape[1]).mean(1)


def features_between(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, H, W) with `rows` (h, H) applied to its columns and `columns` (w, W) to its rows: (N, C, h, w)."""
    return rows @ features @ columns.T
