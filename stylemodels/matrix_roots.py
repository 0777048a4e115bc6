"""Square roots of covariances: inverse ones with a relative floor, and both by matrix products alone.

The products are the coupled Newton-Schulz iteration, whose limits are the roots of Y_0 = A / largest eigenvalue:

    T = (3 I - Z Y) / 2,   Y <- Y T -> Y_0^(1/2),   Z <- T Z -> Y_0^(-1/2),   from Z_0 = I

While an eigenvalue of Z Y is small it grows by 9/4 a step; near 1 its distance from 1 is squared.
Source: Higham 2008, Functions of Matrices, equation 6.35.
"""

from __future__ import annotations

from math import ceil, log

import torch
from torch import Tensor

NO_SPREAD = 1e-12  # below this largest eigenvalue all features count as equal


def inverse_root(covariance: Tensor, eps: float) -> Tensor:
    """V diag((max(e, 0) + eps max e)^(-1/2)) V^T of symmetric matrices, float64; 0 where none has spread.

    covariance: (N, C, C). Raises ValueError when a value is no number, as after damaged weights.
    """
    if not covariance.isfinite().all():
        raise ValueError("features: some are not finite, so the weights or the picture hold values that are no numbers")
    values, vectors = torch.linalg.eigh(covariance.double())
    largest = values[..., -1:]
    floored = values.clamp_min(0) + eps * largest
    roots = torch.where(largest < NO_SPREAD, 0.0, floored.clamp_min(NO_SPREAD * eps).rsqrt())
    root: Tensor = (vectors * roots[..., None, :]) @ vectors.transpose(-2, -1)
    return root


def root_by_products(covariance: Tensor, steps: int = 36) -> Tensor:
    """The square root of positive semidefinite matrices (N, C, C), float64.

    After 36 steps it is exact to the root of 1e-12 of the largest eigenvalue where an eigenvalue is smaller than that.
    """
    matrix = covariance.double()
    largest = largest_eigenvalue(matrix)
    return newton_schulz(matrix / largest.clamp_min(NO_SPREAD), steps)[0] * largest.sqrt()


def inverse_root_by_products(covariance: Tensor, eps: float) -> Tensor:
    """As `inverse_root`, of positive semidefinite matrices (N, C, C) but for rounding."""
    matrix = covariance.double()
    largest = largest_eigenvalue(matrix)
    scale = largest.clamp_min(NO_SPREAD) * (1 + eps)
    floored = (matrix + eps * largest.clamp_min(NO_SPREAD) * identity_like(matrix)) / scale
    steps = ceil(log(1 / eps) / log(9 / 4)) + 8
    return torch.where(largest < NO_SPREAD, 0.0, newton_schulz(floored, steps)[1] * scale.rsqrt())


def newton_schulz(matrix: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Square root and inverse square root of matrices (N, C, C) with eigenvalues from 0 to 1."""
    identity = identity_like(matrix)
    root, inverse = matrix, identity
    for _ in range(steps):
        turn = 1.5 * identity - 0.5 * (inverse @ root)
        root, inverse = root @ turn, turn @ inverse
    return root, inverse


def largest_eigenvalue(matrix: Tensor, squarings: int = 20) -> Tensor:
    """Of positive semidefinite matrices (N, C, C): (N, 1, 1), from a high power, which is all in its direction."""
    power = matrix / trace(matrix).clamp_min(NO_SPREAD)
    for _ in range(squarings):
        power = power @ power
        power = power / trace(power).clamp_min(NO_SPREAD)
    return trace(matrix @ power)


def trace(matrix: Tensor) -> Tensor:
    """(N, C, C) -> (N, 1, 1)."""
    return (matrix * identity_like(matrix)).sum((1, 2), keepdim=True)


def identity_like(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
