"""Second moments of feature maps, matrix roots, and the affine maps that whitening and colouring are.

Everything is computed in float64: the features of trained encoders are truly rank deficient (dead channels), and a
root amplifies what float32 leaves of their zero eigenvalues.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EIG_EPS = 1e-5  # eigenvalues up to this count as zero; features are of the order of 1


class AffineMap(NamedTuple):
    """`f -> matrix f + bias` for every position of a feature map."""

    matrix: Tensor  # (N, C, C)
    bias: Tensor  # (N, C)

    def __call__(self, features: Tensor) -> Tensor:
        """features: (N, C, H, W), any real dtype. Returns the same shape and dtype."""
        count, channels, height, width = features.shape
        matrix, bias = self.matrix.to(features.dtype), self.bias.to(features.dtype)
        # baddbmm is one of the functions that autocast would take down to bfloat16
        with torch.autocast(features.device.type, enabled=False):
            mapped = torch.baddbmm(bias[..., None], matrix, features.reshape(count, channels, height * width))
        return mapped.view(count, channels, height, width)

    def blended(self, alpha: float) -> AffineMap:
        """The map to `alpha` f' + (1 - alpha) f: at 0 nothing changes."""
        identity = torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
        return AffineMap(identity.lerp(self.matrix, alpha), alpha * self.bias)


class Moments:
    """Mean and covariance of feature vectors that come in pieces, for N pictures at once.

    Pieces are summed in float64 about the first piece's mean, so that neither many positions nor a large mean cost
    digits.
    """

    def __init__(self) -> None:
        self.positions = 0
        self._shift = self._sum = self._outer = torch.zeros(())

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of one whole feature map (N, C, H, W)."""
        moments = cls()
        moments.add(features)
        return moments

    def add(self, features: Tensor) -> None:
        """Count the positions of `features` (N, C, H, W), any H and W."""
        flat = features.detach().flatten(2).double()
        if self.positions == 0:
            self._shift = flat.mean(2, keepdim=True)
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(*flat.shape[:2], flat.shape[1], dtype=flat.dtype, device=flat.device)
        centred = flat - self._shift
        self.positions += flat.shape[2]
        self._sum = self._sum + centred.sum(2, keepdim=True)
        self._outer = self._outer + centred @ centred.transpose(1, 2)

    @property
    def mean(self) -> Tensor:
        """(N, C), float64. Raises ValueError when nothing was added."""
        self._check(1)
        return (self._shift + self._sum / self.positions)[..., 0]

    @property
    def covariance(self) -> Tensor:
        """(N, C, C), float64, divided by positions - 1; of a single position all zero, for it has no spread."""
        self._check(1)
        off = self._sum / self.positions
        return (self._outer - self.positions * (off @ off.transpose(1, 2))) / max(self.positions - 1, 1)

    @property
    def std(self) -> Tensor:
        """Standard deviations (N, C), float64, with the variance divided by positions - 1."""
        return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()

    def _check(self, least: int) -> None:
        if self.positions < least:
            raise ValueError("moments of no positions: add features first")


def matrix_power(covariance: Tensor, power: float, eps: float = EIG_EPS) -> Tensor:
    """V diag(e^power) V^T of symmetric matrices, over the eigenvalues above `eps`; the others' directions vanish.

    covariance: (N, C, C), no negative eigenvalues but for rounding. Returns (N, C, C), float64.
    Source: Li et al. 2017 (arXiv:1705.08086), section 3.2.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    kept = values > eps
    roots = torch.where(kept, torch.where(kept, values, 1.0) ** power, 0.0)
    power_of: Tensor = (vectors * roots[..., None, :]) @ vectors.transpose(-2, -1)
    return power_of


def wct_map(content: Moments, style: Moments, *, eps: float = EIG_EPS, shrink: float = 0.0) -> AffineMap:
    """Whitening of the content and colouring with the style as one affine map, float64.

    eps: eigenvalues up to it are dropped, for content and style separately.
    shrink: added to the diagonal of the content's covariance; Li et al.'s own code adds 1, their equations 0.
    Source: Li et al. 2017 (arXiv:1705.08086), equations 1 and 2.
    """
    own = content.covariance
    identity = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    matrix = matrix_power(style.covariance, 0.5, eps) @ matrix_power(own + shrink * identity, -0.5, eps)
    return AffineMap(matrix, style.mean - (matrix @ content.mean[..., None])[..., 0])


def wct(content: Tensor, style: Tensor, *, eps: float = EIG_EPS, shrink: float = 0.0) -> Tensor:
    """`content` features with the mean and covariance of `style` features.

    content: (N, C, H, W), style: (N, C, H', W') with any H', W'. Returns (N, C, H, W) in the dtype of `content`.
    No gradient is meant to cross it: that of an eigendecomposition explodes where eigenvalues coincide.
    """
    return wct_map(Moments.of(content), Moments.of(style), eps=eps, shrink=shrink)(content)
