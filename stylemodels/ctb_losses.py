"""How far a drawing of the content transformation block is from its photo: L_pxl and L_FP.

Source: Kotovenko et al. 2019 (arXiv:2003.08407); the other forms are those of its authors' other methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, l1_loss, mse_loss

from stylemodels.features import at_least_float32

Metric = Literal["l2", "l1", "cosine"]


def pooled_loss(output: Tensor, photos: Tensor, pool: int) -> Tensor:
    """Mean squared difference of averages over pool x pool pixels, which leaves room for strokes; a scalar.

    output, photos: (N, 3, H, W), sides from `pool`. With pool 1 it is the plain mean of squares.
    """
    return mse_loss(avg_pool2d(at_least_float32(output), pool, 1), avg_pool2d(at_least_float32(photos), pool, 1))


def cosine_loss(output: Tensor, code: Tensor) -> Tensor:
    """(1 - cos)^2 between the channels of two codes (N, C, h, w), the mean over all positions."""
    return (1 - cosine_similarity(output, code, dim=1)).square().mean()


DISTANCES: Mapping[Metric, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": mse_loss,
    "l1": l1_loss,
    "cosine": cosine_loss,
}
