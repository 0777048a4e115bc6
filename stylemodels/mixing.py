"""Several styles in one picture: by weight everywhere, or each where its mask says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.method import Style


def mixed(parts: Sequence[Tensor], styles: Sequence[Style]) -> Tensor:
    """The convex combination of what each style made of the same content.

    parts: one (1, C, h, w) per style, features or pictures. styles: as `Task.stylize` gets them.
    Returns (1, C, h, w). A style alone without a mask comes back bit for bit.
    """
    if len(parts) == 1 and styles[0].mask is None:
        return parts[0]
    shares = [share_of(style, parts[0]) for style in styles]
    return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)


def share_of(style: Style, like: Tensor) -> Tensor | float:
    """A style's share at the positions of `like` (1, C, h, w): its weight, or (1, 1, h, w), its mask's mean there."""
    if style.mask is None:
        return style.weight
    return interpolate(style.mask.to(like), size=like.shape[-2:], mode="area")
