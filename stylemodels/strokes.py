"""Strokes of several sizes in one picture: fine ones where attention is high, coarse ones where it is low.

    A^   = min-max( Gauss * sum over channels of [ |A| > 2 mean |A| ] )      how much attention a position has
    c_k  = the centres of K clusters of A^, ascending
    w_k  = softmax_k( theta (1 - |A^ - c_k|) )
    out  = sum_k w_k f_k                                                   f_1 the coarsest stroke, f_K the finest

Source: Yao et al. 2019 (arXiv:1901.05127). The authors' own code smooths with random numbers, drawn anew
at every run, and starts its clusters at random positions; here both are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from stylemodels.clusters import kmeans
from stylemodels.features import at_least_float32

THRESHOLD = 2.0  # times the mean
FLAT = 1e-6  # an attention map with less contrast says nothing


def attention_filter(attended: Tensor) -> Tensor:
    """How much attention each position has, from an attention feature map of either sign.

    attended: (1, C, h, w). Returns (1, 1, h, w) in [0, 1], from 0 to 1; 0.5 everywhere where it is the same everywhere.
    """
    strength = at_least_float32(attended).abs()
    salient = (strength > THRESHOLD * strength.mean()).to(strength)
    return stretched(smoothed(salient.sum(1, keepdim=True)))


def smoothed(maps: Tensor) -> Tensor:
    """(N, 1, h, w) under a 3 x 3 Gaussian of sigma 1; the border is repeated."""
    line = torch.exp(-0.5 * torch.tensor([-1.0, 0.0, 1.0]).to(maps).square())
    kernel = torch.outer(line, line) / line.sum().square()
    return conv2d(pad(maps, (1, 1, 1, 1), mode="replicate"), kernel[None, None])


def stretched(maps: Tensor) -> Tensor:
    """From 0 to 1; 0.5 everywhere where there is no contrast."""
    least, most = maps.min(), maps.max()
    if most - least <= FLAT * most.abs().clamp_min(1):
        return torch.full_like(maps, 0.5)
    return (maps - least) / (most - least)


def attention_levels(attention: Tensor, count: int) -> Tensor:
    """The centres of `count` clusters of an attention map's values, ascending: (count,), in the map's dtype."""
    centres = kmeans(attention.reshape(-1, 1), count).centres
    return centres[:, 0].sort().values.to(attention)


def stroke_weights(attention: Tensor, levels: Tensor, theta: float) -> Tensor:
    """How much of each stroke a position gets, by how near its attention is to the stroke's level.

    attention: (1, 1, h, w). levels: (K,). theta: 0 blends all alike, large values cut hard.
    Returns (K, 1, h, w), float32 (float64 stays float64), which sum to 1 over K.
    """
    distance = (at_least_float32(attention) - levels.view(-1, 1, 1, 1)).abs()
    return (theta * (1 - distance)).softmax(0)


def fused(strokes: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of `strokes`, K maps (1, C, h, w), by `weights` (K, 1, h, w). A stroke alone comes back as it is."""
    if len(strokes) == 1:
        return strokes[0]
    return (torch.cat(list(strokes)) * weights).sum(0, keepdim=True)
