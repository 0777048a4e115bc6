"""What is wrong with a stylisation: its distance from the content in features, from the styles in Gram matrices.

phi_i are a fixed encoder's features at relu{i}_1, G^i = phi_i phi_i^T / (h w) their Gram matrices. Pictures are in
[-1, 1] here.
Source: Song et al. 2019 (arXiv:1910.12056), the error encoders; the square root is the authors' code's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.encoders import Encoder
from stylemodels.features import at_least_float32, gram
from stylemodels.losses import content_loss
from stylemodels.method import Style

Features = Mapping[str, Tensor]  # tap -> (N, C, h, w)
GramError = Literal["sqrt", "plain"]
EncoderInput = Literal["unit", "raw"]
Reduction = Literal["mean", "l2"]

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
DEEPEST = TAPS[-1]


class Target(NamedTuple):
    """What the stylisation of one scale should have."""

    content: Tensor  # phi_4(c), (N, C, h, w)
    grams: Mapping[str, Tensor]  # tap -> (N, C, C), of several styles their mean


class Errors(NamedTuple):
    """What is wrong at one scale."""

    content: Tensor  # Dc = phi_4(x) - phi_4(c), (N, C, h, w)
    style: Mapping[str, Tensor]  # tap -> Ds = sqrt G(x) - sqrt G(s), (N, C, C), symmetric

    def none(self) -> Errors:
        """As if nothing were wrong."""
        return Errors(torch.zeros_like(self.content), {tap: torch.zeros_like(e) for tap, e in self.style.items()})


class ErrorEncoder:
    """Measures stylisations by one encoder. It owns nothing: the encoder belongs to whoever made this."""

    def __init__(self, encoder: Encoder, gram_error: GramError, encoder_input: EncoderInput) -> None:
        """gram_error: whether Gram matrices are compared by their roots, entry by entry (ReLUs keep them positive).

        encoder_input: what the encoder sees: [0, 1], as it was made for, or [-1, 1], as the authors' code has it.
        """
        self.encoder, self.gram_error, self.encoder_input = encoder, gram_error, encoder_input

    def seen(self, images: Tensor, taps: Sequence[str] = TAPS) -> Features:
        """phi of pictures (N, 3, H, W) at these taps."""
        features: Features = self.encoder(unsigned(images) if self.encoder_input == "unit" else images, taps)
        return features

    def target(self, content: Tensor, styles: Sequence[Style]) -> Target:
        """content: (N, 3, H, W), styles: pictures of any other size; all in [-1, 1], at one scale."""
        painted = [self.seen(style.image) for style in styles]
        grams = {
            tap: torch.stack([s.weight * position_gram(f[tap]) for s, f in zip(styles, painted, strict=True)]).sum(0)
            for tap in TAPS
        }
        return Target(self.seen(content, [DEEPEST])[DEEPEST], grams)

    def errors(self, features: Features, target: Target) -> Errors:
        """What is wrong with a stylisation's features; of the style, at those taps that `features` has."""
        content = at_least_float32(features[DEEPEST]) - at_least_float32(target.content)
        style = {tap: self._rooted(position_gram(f)) - self._rooted(target.grams[tap]) for tap, f in features.items()}
        return Errors(content, style)

    def maps(self, features: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Content error and style error of relu4_1's features (N, C, h, w) as heat maps, (N, 3, h, w) in [0, 1].

        A Gram matrix has no place in the picture; what the fusion multiplies with it has: every position's features
        times the (rooted) Gram matrix of the stylisation are compared with the same times that of the style.
        """
        rows = features.flatten(2)
        by_own, by_style = (
            (self._rooted(matrix) @ rows).view_as(features)
            for matrix in (position_gram(features), target.grams[DEEPEST])
        )
        return heat(features, target.content), heat(by_own, by_style)

    def _rooted(self, matrix: Tensor) -> Tensor:
        return matrix.sqrt() if self.gram_error == "sqrt" else matrix


def position_gram(features: Tensor) -> Tensor:
    """G: (N, C, h, w) -> (N, C, C), divided by the positions only."""
    return gram(features) * features.shape[1]


def content_terms(
    seen: Mapping[int, Features], targets: Mapping[int, Target], reduction: Reduction = "mean"
) -> list[Tensor]:
    """The summands of equation 7: one for each scale of `seen`."""
    return [distance(features[DEEPEST], targets[k].content, reduction) for k, features in seen.items()]


def style_terms(
    seen: Mapping[int, Features], targets: Mapping[int, Target], reduction: Reduction = "mean"
) -> list[Tensor]:
    """The summands of equation 8: one for each scale and each tap that `seen` has of it."""
    return [
        distance(position_gram(value), targets[k].grams[tap], reduction)
        for k, features in seen.items()
        for tap, value in features.items()
    ]


def distance(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """How far two tensors (N, ...) are apart: their mean squared difference, or the mean over N of its length."""
    if reduction == "mean":
        return content_loss(output, target)
    squares = (at_least_float32(output) - at_least_float32(target)).flatten(1).square().sum(1)
    return (squares + 1e-8).sqrt().mean()  # a root has no gradient at 0


def heat(own: Tensor, goal: Tensor) -> Tensor:
    """|own - goal| / (|own| + |goal|) at every position, as colours: black is 0, then red and yellow, white is 1.

    own, goal: (N, C, h, w); lengths are over C. Being relative, maps of different levels can be compared.
    Returns (N, 3, h, w) in [0, 1].
    """
    lengths = own.norm(dim=1, keepdim=True) + goal.norm(dim=1, keepdim=True)
    share = (own - goal).norm(dim=1, keepdim=True) / lengths.clamp_min(1e-12)
    return torch.cat([3 * share, 3 * share - 1, 3 * share - 2], dim=1).clamp(0, 1)


def coarser(images: Tensor, times: int = 1) -> Tensor:
    """d, so many times: every second pixel of each row and column. (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))."""
    step = 2**times
    return images[..., ::step, ::step]


def finer(images: Tensor) -> Tensor:
    """u: every pixel four times. (N, C, H, W) -> (N, C, 2H, 2W); `coarser` takes it back exactly."""
    return interpolate(images, scale_factor=2)


def signed(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return 2 * images - 1


def unsigned(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (images + 1) / 2
