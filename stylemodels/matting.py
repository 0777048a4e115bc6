"""The matting Laplacian of a photo: how far a picture is, in every 3 x 3 window, from an affine map of the photo.

    M_ij = sum over windows w with i and j of
           delta_ij - (1 + (I_i - mean_w)^T (cov_w + eps / 9 Id)^-1 (I_j - mean_w)) / 9

Never built: M p = box'(1) p - (box'(a) . I + box'(b)), where (a, b) is every window's ridge regression of p on I, box
the sum over a window, and box' its adjoint. Everything is in float64: the inverses reach 9 / eps.

Sources: Levin et al. 2008 (A closed-form solution to natural image matting), equation 12; Luan et al. 2017
(arXiv:1703.07511), equation 3, for what it is used for here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

WINDOW = 9  # positions
LARGEST_EIGENVALUE = 9.0  # of M: no position lies in more windows, and no window's part has one above 1
ENOUGH = 1e-8  # a residual so small, over the right side's norm, ends the conjugate gradients


class MattingLaplacian:
    """M of one photo. Pictures are (1, C, H, W) of the photo's size, and each channel is taken alone."""

    def __init__(self, photo: Tensor, *, eps: float) -> None:
        """photo: (1, 3, H, W) in [0, 1], sides from 3 px. eps: above 0; the larger, the smoother.

        Raises ValueError for a smaller photo.
        """
        if min(photo.shape[-2:]) < 3:
            raise ValueError(f"content: {photo.shape[-1]} x {photo.shape[-2]} px have no window of 3 x 3")
        self.photo = photo.double()
        self.mean = box(self.photo) / WINDOW
        products = (self.photo[:, :, None] * self.photo[:, None]).flatten(1, 2)
        covariance = box(products) / WINDOW - (self.mean[:, :, None] * self.mean[:, None]).flatten(1, 2)
        matrices = covariance.permute(0, 2, 3, 1).reshape(1, *covariance.shape[-2:], 3, 3)
        ridge = eps / WINDOW * torch.eye(3, dtype=torch.float64, device=photo.device)
        self.inverse = torch.linalg.inv(matrices + ridge)  # (1, H - 2, W - 2, 3, 3)
        self.count = spread(torch.ones_like(self.mean[:, :1]))

    def __call__(self, picture: Tensor) -> Tensor:
        """M p, float64."""
        p = picture.double()
        return torch.cat([self._product(p[:, n : n + 1]) for n in range(p.shape[1])], 1)

    def energy(self, picture: Tensor) -> Tensor:
        """The sum over the channels of p^T M p, a scalar in float64."""
        return (picture.double() * self(picture)).sum()

    def _product(self, p: Tensor) -> Tensor:
        mean = box(p) / WINDOW
        covariance = box(self.photo * p) / WINDOW - self.mean * mean
        slope = torch.einsum("nyxij,njyx->niyx", self.inverse, covariance)
        offset = mean - (slope * self.mean).sum(1, keepdim=True)
        return self.count * p - (spread(slope) * self.photo).sum(1, keepdim=True) - spread(offset)


def box(maps: Tensor) -> Tensor:
    """Sums over the 3 x 3 windows that lie inside: (N, C, H, W) -> (N, C, H - 2, W - 2)."""
    rows = maps[..., :-2, :] + maps[..., 1:-1, :] + maps[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def spread(windows: Tensor) -> Tensor:
    """The adjoint of `box`: every position gets the sum of the windows that it lies in."""
    return box(pad(windows, (2, 2, 2, 2)))


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, iterations: int) -> Tensor:
    """x with product(x) = right, for a symmetric positive definite product, nearly: after so many iterations at most.

    Any shapes; float64 is wise. Source: Hestenes & Stiefel 1952.
    """
    x = start
    residual = right - product(x)
    direction = residual
    square = residual.square().sum()
    enough = ENOUGH**2 * right.square().sum()
    for _ in range(iterations):
        if square <= enough:
            break
        image = product(direction)
        length = square / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return x
