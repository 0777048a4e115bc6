"""How far a whole frame has moved since the one before: the motion of a camera that pans.

Source: Kuglin & Hines 1975 (The phase correlation image alignment method).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stylemodels.colour import luma


class Shift(NamedTuple):
    """In pixels, downwards and to the right."""

    down: int
    right: int


def shift_between(before: Tensor, now: Tensor) -> Shift:
    """By how many whole pixels `now` shows what `before` showed: the peak of the phase correlation of their luma.

    before, now: (1, 3, H, W) of one size. Pictures without any detail have not moved.
    """
    first, second = (torch.fft.rfft2(windowed(luma(image)[0, 0])) for image in (before, now))
    product = second * first.conj()
    # Frequencies that neither picture has would be rounding with a random phase.
    floor = 1e-6 * product.abs().amax().clamp_min(1e-12)
    height, width = before.shape[-2:]
    peak = int(torch.fft.irfft2(product / product.abs().clamp_min(floor), s=(height, width)).argmax())
    down, right = divmod(peak, width)
    return Shift(down - height * (2 * down > height), right - width * (2 * right > width))


def windowed(picture: Tensor) -> Tensor:
    """(H, W) without its mean, faded out towards its border: the border itself would look like a thing that stays."""
    height, width = picture.shape
    window = torch.hann_window(height, periodic=False).outer(torch.hann_window(width, periodic=False))
    return (picture - picture.mean()) * window.to(picture)


def shifted(image: Tensor, by: Shift) -> Tensor:
    """(1, C, H, W) moved by whole pixels; the border is repeated into what comes in."""
    rows, columns = (
        (torch.arange(side, device=image.device) - moved).clamp(0, side - 1)
        for side, moved in zip(image.shape[-2:], by, strict=True)
    )
    return image[..., rows, :][..., columns]
