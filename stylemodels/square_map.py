"""Controls that say how much of something where: a square map as numbers row by row, stretched over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.schema import FieldError, InvalidConfig


def check_square(control: str, values: Sequence[float]) -> None:
    """Raise InvalidConfig that names the control when so many values are no square; none are allowed."""
    if isqrt(len(values)) ** 2 != len(values):
        detail = f"{len(values)} values were given, a square map has 1, 4, 9, ..."
        raise InvalidConfig([FieldError(f"/{control}", detail)])


def stretched(values: Sequence[float], like: Tensor) -> Tensor:
    """A square map at the size of features `like` (1, C, h, w): (1, 1, h, w)."""
    side = isqrt(len(values))
    square = torch.tensor(values).to(like).view(1, 1, side, side)
    return interpolate(square, size=like.shape[-2:], mode="bilinear", align_corners=False)
