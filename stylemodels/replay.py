"""A pool of earlier pictures, so that a critic does not forget what fakes looked like."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReplayPool(nn.Module):
    """Gives back what it is given, or, every other time once it is full, something earlier in exchange.

    All of it is in buffers of the full size from the start: `kept` (capacity, C, H, W) in half precision, which rounds
    a picture in [-1, 1] by a 16th of a level of 8 bits at most, and `held`, how many of its places are taken.

    Source: Shrivastava et al. 2017 (arXiv:1612.07828), section 2.3, as CycleGAN (arXiv:1703.10593) has it.
    """

    kept: Tensor
    held: Tensor

    def __init__(self, capacity: int, channels: int, size: int) -> None:
        """capacity: pictures; 0 switches it off. size: their side, pixels."""
        super().__init__()
        self.capacity = capacity
        self.register_buffer("kept", torch.zeros(capacity, channels, size, size, dtype=torch.float16))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, without gradient. Draws from torch's random numbers."""
        if self.capacity == 0:
            return pictures.detach()
        return torch.stack([self._exchanged(picture) for picture in pictures.detach()])

    def _exchanged(self, picture: Tensor) -> Tensor:
        held = int(self.held)
        if held < self.capacity:
            self.kept[held] = picture.to(self.kept.dtype)
            self.held += 1
            return picture
        if float(torch.rand(())) < 0.5:
            return picture
        place = int(torch.randint(self.capacity, ()))
        earlier = self.kept[place].to(picture.dtype)
        self.kept[place] = picture.to(self.kept.dtype)
        return earlier
