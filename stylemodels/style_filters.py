"""Styles as Gram matrices that filter the features of a picture: by weight, by mask, by region.

    f x G^T (sum_i a_i Gram_i) H                                       one filter of a mixture
    sum_i w_i . (f x G^T Gram_i H),   w_i = M_i^2 / sum_j M_j^2        each where its mask M_i says

A filter acts on the gradient of |(M F)^T (M F) - Gram|^2, which is why masks count by their squares.
Source: Puy & Perez 2019 (A Flexible Convolutional Solver for Fast Style Transfers), equations 10 and 12 and the masked
loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from stylemodels.features import gram
from stylemodels.method import Style
from stylemodels.transformation import parts_of, second_moment

FilterNorm = Literal["none", "sqrt", "trace"]
Features = Mapping[str, Tensor]  # tap -> (N, C, h, w)

MIN_CELLS = 4  # a region of fewer positions at any tap is too small to have a Gram matrix of its own


class Weighted(NamedTuple):
    """A Gram matrix and how much of it each position takes."""

    gram: Tensor  # (N, C, C)
    weight: Tensor | float  # (1, 1, h, w)


class Painted(NamedTuple):
    """A style that was read."""

    style: Style
    whole: Mapping[str, Tensor]  # tap -> Gram matrix (1, C, C) of the picture
    parts: Mapping[int, Mapping[str, Tensor]]  # label -> the same of a region


def mean_gram(features: Tensor) -> Tensor:
    """F^T F / n, rows of F being positions: (N, C, h, w) -> (N, C, C), float32 (float64 stays float64)."""
    return gram(features) * features.shape[1]


def normed(gram: Tensor, form: FilterNorm) -> Tensor:
    """A Gram matrix (N, C, C) without the magnitude that differs from style to style, with t = trace / C.

    none: as it is. sqrt: over sqrt(t), as of features times t^(-1/4). trace: over t, so that all have the trace C.
    """
    t = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
    match form:
        case "none":
            return gram
        case "sqrt":
            return gram / t.sqrt()
        case "trace":
            return gram / t


def read(style: Style, features: Features, form: FilterNorm) -> Painted:
    """The Gram matrices of a style picture, and those of its regions.

    features: of the style picture, each tap (1, C, h, w). A region is left out where it has fewer than MIN_CELLS
    positions at any tap.
    """
    whole = {tap: normed(mean_gram(values), form) for tap, values in features.items()}
    if style.regions is None:
        return Painted(style, whole, {})
    found = {tap: parts_of(style.regions.style, values, MIN_CELLS) for tap, values in features.items()}
    labels = set.intersection(*(set(parts) for parts in found.values()))
    parts = {
        label: {tap: normed(second_moment(values[..., found[tap][label]]), form) for tap, values in features.items()}
        for label in sorted(labels)
    }
    return Painted(style, whole, parts)


def filters_at(painted: Sequence[Painted], tap: str, size: Sequence[int], *, feather: int) -> list[Weighted]:
    """What filters the features at `tap`, whose map of the content has this size.

    Without masks and regions that is a single matrix, equation 12. Parts of the content whose label the style lacks
    take the whole picture's matrix. feather: over how many pixels masks and label maps are softened.
    """
    masks = [one.style.mask for one in painted if one.style.mask is not None]
    if not masks and not any(one.parts for one in painted):
        return [Weighted(torch.stack([one.style.weight * one.whole[tap] for one in painted]).sum(0), 1.0)]
    shares: Sequence[Tensor | float] = [one.style.weight for one in painted]
    if masks:
        shares = squared_shares([softened(mask, feather) for mask in masks], size)
    return [
        Weighted(part.gram, share * part.weight)
        for one, share in zip(painted, shares, strict=True)
        for part in regional(one, tap, size, feather)
    ]


def regional(one: Painted, tap: str, size: Sequence[int], feather: int) -> list[Weighted]:
    """A style's matrices at `tap`: of its regions, and of the whole picture for the rest of the content."""
    if one.style.regions is None or not one.parts:
        return [Weighted(one.whole[tap], 1.0)]
    labels = one.style.regions.content
    places = torch.stack([labels == label for label in one.parts]).float()
    rest = 1 - places.sum(0)
    shares = squared_shares([softened(mask, feather) for mask in (*places, rest)], size)
    grams = [*(part[tap] for part in one.parts.values()), one.whole[tap]]
    return [Weighted(gram, share) for gram, share in zip(grams, shares, strict=True)]


def softened(mask: Tensor, feather: int) -> Tensor:
    """(1, 1, H, W) averaged over squares that reach `feather` pixels to every side, within the picture.

    Masks that sum to 1 at every pixel still do.
    """
    if feather == 0:
        return mask
    for kernel, border in (((2 * feather + 1, 1), (feather, 0)), ((1, 2 * feather + 1), (0, feather))):
        mask = avg_pool2d(mask, kernel, stride=1, padding=border, count_include_pad=False)
    return mask


def squared_shares(masks: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
    """w_i = M_i^2 / sum_j M_j^2 of masks (1, 1, H, W) that are averaged to `size` first; where all are 0, 0."""
    squares = torch.stack([interpolate(mask, size=tuple(size), mode="area") for mask in masks]).square()
    total = squares.sum(0)
    return list(squares / total.masked_fill(total == 0, 1))
