"""A decoder that paints features of several scales at once.

Source: Kim & Choi 2018, Total Style Transfer; that a finer scale enters right after the up-sampling is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from stylemodels.blocks import reflect_conv

Skip = Literal["add", "concat"]
DEPTHS = (2, 2, 3, 3)  # VGG-16's convolutions of each block, up to the fourth


class SkipDecoder(nn.Module):
    """VGG-16 up to its third or fourth block in reverse, that is given every finer scale right after an up-sampling.

    Its layers are called as those that they undo: `conv31` takes the third scale's channels to the second's.
    """

    def __init__(self, widths: Sequence[int], skip: Skip) -> None:
        """widths: channels of each scale, fine to coarse."""
        super().__init__()
        self.skip: Skip = skip
        self.blocks: list[list[str]] = []  # names of the convolutions of each block, coarse to fine
        for block in range(len(widths), 0, -1):
            width, after = widths[block - 1], widths[block - 2] if block > 1 else 3
            names = [f"conv{block}{index}" for index in range(DEPTHS[block - 1], 0, -1)]
            for name in names:
                merged = skip == "concat" and name == names[0] and block < len(widths)
                outputs = after if name == names[-1] else width
                self.add_module(name, reflect_conv(2 * width if merged else width, outputs, 3))
            self.blocks.append(names)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Features of all scales, fine to coarse -> (N, 3, H, W) of the finest one's size. Not clamped."""
        features: Tensor
        features, *finer = reversed(scales)
        for place, names in enumerate(self.blocks):
            if place > 0:
                features = self.merged(interpolate(features, scale_factor=2), finer[place - 1])
            for name in names[:-1]:
                features = relu(self.get_submodule(name)(features))
            features = self.get_submodule(names[-1])(features)
            if place < len(self.blocks) - 1:
                features = relu(features)
        return features

    def merged(self, features: Tensor, skipped: Tensor) -> Tensor:
        return features + skipped if self.skip == "add" else torch.cat([features, skipped], 1)
