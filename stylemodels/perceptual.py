"""The loss that trains a network for one style: a fixed encoder compares its pictures with the photo and the painting.

    l = content_weight * mean (phi(y) - phi(c))^2 + style_weight * sum over taps of mean (G(y) - G(s))^2

Source: Johnson, Alahi & Fei-Fei 2016 (arXiv:1603.08155), equations 2 to 4, at the taps of section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stylemodels.encoders import Encoder, stand_in
from stylemodels.features import gram
from stylemodels.losses import content_loss, gram_loss

CONTENT_TAP = "relu2_2"
STYLE_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


class PerceptualLoss:
    """The loss of one encoder, with what stands in for VGG-16's taps in it. Pictures are (N, 3, H, W) in [0, 1]."""

    def __init__(self, encoder: Encoder, *, content_weight: float, style_weight: float) -> None:
        self.encoder = encoder
        self.content_weight, self.style_weight = content_weight, style_weight
        self.content_tap = stand_in(encoder.name, CONTENT_TAP, "content")
        self.style_taps = tuple(stand_in(encoder.name, tap, "style") for tap in STYLE_TAPS)
        self.taps = tuple(dict.fromkeys((*self.style_taps, self.content_tap)))

    @torch.no_grad()
    def content_target(self, photos: Tensor) -> Tensor:
        """phi(c): the features that the output should keep."""
        features: dict[str, Tensor] = self.encoder(photos, [self.content_tap])
        return features[self.content_tap]

    @torch.no_grad()
    def style_target(self, styles: Tensor) -> dict[str, Tensor]:
        """Gram matrices of style pictures (S, 3, H, W): tap -> (S, C, C)."""
        return {tap: gram(features) for tap, features in self.encoder(styles, self.style_taps).items()}

    def __call__(self, output: Tensor, content: Tensor, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The two weighted terms of pictures `output`; their sum is l."""
        features = self.encoder(output, self.taps)
        return {
            "content_loss": self.content_weight * content_loss(features[self.content_tap], content),
            "style_loss": self.style_weight * gram_loss(features, grams),
        }

    def taps_used(self) -> dict[str, Any]:
        """Which taps measure content and style, for a model's config."""
        return {"content": self.content_tap, "style": list(self.style_taps)}
