"""Local feature normalisation: group norm whose statistics are those of a window around each position.

Nothing is known of the whole picture, so strokes look alike at every size, and no patch of one colour blotches another.
Source: Kotovenko et al. 2019 (arXiv:2003.08407); the cheap evaluation, by a coarse grid of windows, is its authors'.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, group_norm, interpolate

from stylemodels.features import at_least_float32

EPS = 1e-5
GAIN_STD = 0.02  # of the gains at the start, around 1

NormKind = Literal["lfn", "instance", "group"]


class NormForm(NamedTuple):
    """Which norm the layers of a network have."""

    kind: NormKind
    group: int  # channels that share their statistics; fewer where a layer has fewer

    def layer(self, channels: int) -> LocalNorm:
        """Raises ValueError where the channels do not come out even in groups."""
        size = 1 if self.kind == "instance" else min(self.group, channels)
        if channels % size:
            raise ValueError(f"{channels} channels cannot be normalised in groups of {size}")
        return LocalNorm(channels, size, everywhere=self.kind != "lfn")


class LocalNorm(nn.Module):
    """(I - mean) / sqrt(variance + 1e-5) * gain + bias; in float32 also under autocast.

    Mean and variance are those of a window and of `size` channels in a row; gain and bias are each channel's own.
    Where the window holds the whole map this is group norm; with groups of one channel, instance norm.
    """

    form: Literal["pooled", "matrix"] = "pooled"  # matrix: slower, but ONNX can say it for pictures of any size

    def __init__(self, channels: int, size: int, *, everywhere: bool = False) -> None:
        """everywhere: the window is always the whole map."""
        super().__init__()
        self.groups, self.everywhere = channels // size, everywhere
        self.weight = nn.Parameter(torch.empty(channels).normal_(1, GAIN_STD))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, window: int) -> Tensor:
        """features: (N, C, H, W), of any size. window: its side, positions; it ends where the map does."""
        features = features.to(self.weight.dtype)
        if self.everywhere or (self.form == "pooled" and window >= max(features.shape[-2:])):
            return group_norm(features, self.groups, self.weight, self.bias, EPS)
        local_mean = matrix_mean if self.form == "matrix" else pooled_mean
        grouped: Tensor = features.unflatten(1, (self.groups, -1))  # type: ignore[no-untyped-call]
        centred = grouped - local_mean(grouped.mean(2), window).unsqueeze(2)
        # Of squares of differences: the difference of mean squares would be noise where the mean is large.
        variance = local_mean(centred.square().mean(2), window).unsqueeze(2)
        normalised = (centred * (variance + EPS).rsqrt()).flatten(1, 2)
        return normalised * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def pooled_mean(maps: Tensor, window: int) -> Tensor:
    """The mean of a window around each position, smoothly: windows half a window apart, bilinear in between.

    maps: (N, C, H, W). window: positions, from 1; as many as there are on an axis that is shorter. Returns the same
    shape. What the last window does not reach any more, less than half a window, takes that one's mean.
    """
    height, width = maps.shape[-2:]
    kernel = (min(window, height), min(window, width))
    coarse = avg_pool2d(maps, kernel, (max(kernel[0] // 2, 1), max(kernel[1] // 2, 1)))
    return interpolate(coarse, (height, width), mode="bilinear", align_corners=False)


def matrix_mean(maps: Tensor, window: int) -> Tensor:
    """`pooled_mean` as one matrix for each axis: shapes may be unknown, the arithmetic is not linear in them."""
    with torch.autocast(maps.device.type, enabled=False):
        maps = at_least_float32(maps)
        down, across = (averaging(torch.arange(side).to(maps), window) for side in maps.shape[-2:])
        return down @ maps @ across.T


def averaging(positions: Tensor, window: int) -> Tensor:
    """The matrix that takes an axis to its smooth local means.

    positions: 0, 1, ..., side - 1, as floating point numbers. Returns (side, side); every row sums to 1.
    """
    side = positions[-1] + 1
    kernel = side.clamp(max=window)
    stride = (kernel / 2).floor().clamp(min=1)
    count = ((side - kernel) / stride).floor() + 1
    place = ((positions + 0.5) * (count / side) - 0.5).clamp(min=0)  # on the grid of windows
    first = place.floor()
    share = (place - first)[:, None]
    second = torch.minimum(first + 1, count - 1)
    boxes = []
    for index in (first, second):
        start = (index * stride)[:, None]
        boxes.append(((positions >= start) & (positions < start + kernel)).to(positions) / kernel)
    return (1 - share) * boxes[0] + share * boxes[1]
