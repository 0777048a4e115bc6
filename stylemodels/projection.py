"""Features freed of their style, and given another: what lies around a swap of patches."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stylemodels.features import at_least_float32, mean_std
from stylemodels.whitening import EIG_EPS, Moments, colouring_map, whitening_map

Projection = Literal["zca", "adain"]  # the whole covariance, or each channel's variance


def whitened(features: Tensor, projection: Projection, eps: float = EIG_EPS) -> Tensor:
    """Mean 0, and covariance I (zca) or each channel's variance 1 (adain).

    features: (1, C, H, W). eps: eigenvalues up to it count as zero. Returns the same shape, float32 at least.
    """
    features = at_least_float32(features)
    if projection == "zca":
        return whitening_map(Moments.of(features), eps=eps)(features)
    mean, std = mean_std(features)
    return (features - mean) / std


def coloured(features: Tensor, style: Tensor, projection: Projection, eps: float = EIG_EPS) -> Tensor:
    """The way back: whitened `features` (1, C, H, W) with the statistics of `style` (1, C, H', W')."""
    if projection == "zca":
        return colouring_map(Moments.of(style), eps=eps)(features)
    mean, std = mean_std(style)
    return features * std + mean
