"""Second moments of feature maps, matrix roots, and the affine maps that whitening and colouring are.

Everything is computed in float64: the features of trained encoders are truly rank deficient (dead channels), and a
root amplifies what float32 leaves of their zero eigenvalues.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EIG_EPS = 1e-5  # eigenvalues up to this count as zero; features are of the order of 1
PIECE = 1 << 22  # numbers that are summed at once: 32 MiB in float64


class AffineMap(NamedTuple):
    """`f -> matrix f + bias` for every position of a feature map."""

    matrix: Tensor  # (N, C', C); C' = C but where a map is a part of a larger one
    bias: Tensor  # (N, C')

    def __call__(self, features: Tensor) -> Tensor:
        """features: (N, C, H, W), any real dtype. Returns (N, C', H, W) in that dtype, channels last."""
        count, channels, height, width = features.shape
        matrix, bias = self.matrix.to(features), self.bias.to(features)
        flat = features.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        # baddbmm is one of the functions that autocast would take down to bfloat16
        with torch.autocast(features.device.type, enabled=False):
            mapped = torch.baddbmm(bias[:, None], flat, matrix.transpose(1, 2))
        return mapped.view(count, height, width, -1).permute(0, 3, 1, 2)

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
        flat = features.detach().permute(0, 2, 3, 1).flatten(1, 2)
        for piece in torch.split(flat, max(PIECE // flat.shape[2], 1), dim=1):
            self._add(piece.double())

    def _add(self, vectors: Tensor) -> None:
        """vectors: (N, positions, C), float64."""
        if self.positions == 0:
            self._shift = vectors.mean(1, keepdim=True)
            self._sum = torch.zeros_like(self._shift)
            self._outer = vectors.new_zeros(len(vectors), vectors.shape[2], vectors.shape[2])
        centred = vectors - self._shift
        self.positions += vectors.shape[1]
        self._sum = self._sum + centred.sum(1, keepdim=True)
        self._outer = self._outer + centred.transpose(1, 2) @ centred

    @property
    def mean(self) -> Tensor:
        """(N, C), float64. Raises ValueError when nothing was added."""
        self._check(1)
        return (self._shift + self._sum / self.positions)[:, 0]

    @property
    def covariance(self) -> Tensor:
        """(N, C, C), float64, divided by positions - 1; of a single position all zero, for it has no spread."""
        self._check(1)
        off = self._sum / self.positions
        return (self._outer - self.positions * (off.transpose(1, 2) @ off)) / max(self.positions - 1, 1)

    @property
    def std(self) -> Tensor:
        """Standard deviations (N, C), float64, with the variance divided by positions - 1."""
        return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()

    def _check(self, least: int) -> None:
        if self.positions < least:
            raise ValueError("moments of no positions: add features first")


def matrix_power(
    covariance: Tensor,
    power: float,
    eps: float = EIG_EPS,
    *,
    rel_eps: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """V diag(e^power) V^T of symmetric matrices, over the eigenvalues above `eps`; the others' directions vanish.

    covariance: (N, C, C), no negative eigenvalues but for rounding. Returns (N, C, C), float64.
    rel_eps: eigenvalues up to this share of the matrix's largest vanish too. dtype: of the decomposition.
    Raises ValueError when a value is no number, as after damaged weights.
    Source: Li et al. 2017 (arXiv:1705.08086), section 3.2.
    """
    if not covariance.isfinite().all():
        raise ValueError("features: some are not finite, so the weights or the picture hold values that are no numbers")
    values, vectors = decomposed(covariance, dtype)
    kept = values > (rel_eps * values[..., -1:]).clamp_min(eps)
    roots = torch.where(kept, torch.where(kept, values, 1.0) ** power, 0.0)
    power_of: Tensor = (vectors * roots[..., None, :]) @ vectors.transpose(-2, -1)
    return power_of


def decomposed(matrices: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Eigenvalues in rising order (N, C) and eigenvectors (N, C, C) of symmetric matrices, float64, found in `dtype`.

    Where the solver does not converge, it is asked again in float64 on the CPU.
    """
    try:
        values, vectors = torch.linalg.eigh(matrices.to(dtype))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrices.double().cpu())
    return values.to(matrices.device, torch.float64), vectors.to(matrices.device, torch.float64)


def whitening_map(content: Moments, *, eps: float = EIG_EPS) -> AffineMap:
    """To mean 0 and covariance I (ZCA), where `content` varies at all; float64.

    Source: Li et al. 2017 (arXiv:1705.08086), equation 1.
    """
    matrix = matrix_power(content.covariance, -0.5, eps)
    return AffineMap(matrix, -(matrix @ content.mean[..., None])[..., 0])


def colouring_map(style: Moments, *, eps: float = EIG_EPS) -> AffineMap:
    """From mean 0 and covariance I to those of `style`, float64.

    Source: Li et al. 2017 (arXiv:1705.08086), equation 2.
    """
    return AffineMap(matrix_power(style.covariance, 0.5, eps), style.mean)


def wct_map(
    content: Moments,
    style: Moments,
    *,
    eps: float = EIG_EPS,
    shrink: float = 0.0,
    rel_eps: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> AffineMap:
    """Whitening of the content and colouring with the style as one affine map, float64.

    eps: eigenvalues up to it are dropped, for content and style separately.
    rel_eps: and those up to this share of the largest. dtype: of the decompositions.
    shrink: added to the diagonal of the content's covariance; Li et al.'s own code adds 1, their equations 0.
    Source: Li et al. 2017 (arXiv:1705.08086), equations 1 and 2.
    """
    own = content.covariance
    identity = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    colouring = matrix_power(style.covariance, 0.5, eps, rel_eps=rel_eps, dtype=dtype)
    matrix = colouring @ matrix_power(own + shrink * identity, -0.5, eps, rel_eps=rel_eps, dtype=dtype)
    return AffineMap(matrix, style.mean - (matrix @ content.mean[..., None])[..., 0])


def wct(content: Tensor, style: Tensor, *, eps: float = EIG_EPS, shrink: float = 0.0) -> Tensor:
    """`content` features with the mean and covariance of `style` features.

    content: (N, C, H, W), style: (N, C, H', W') with any H', W'. Returns (N, C, H, W) in the dtype of `content`.
    No gradient is meant to cross it: that of an eigendecomposition explodes where eigenvalues coincide.
    """
    return wct_map(Moments.of(content), Moments.of(style), eps=eps, shrink=shrink)(content)


def adain_map(content: Moments, style: Moments, *, eps: float = 1e-5) -> AffineMap:
    """`features.adain` as an affine map, float64, from the moments of both sides.

    eps: added to the variances, which are divided by the number of positions, as in `features.mean_std`.
    """
    own, painted = ((m.std.square() * ((m.positions - 1) / m.positions) + eps).sqrt() for m in (content, style))
    scale = painted / own
    return AffineMap(torch.diag_embed(scale), style.mean - scale * content.mean)
