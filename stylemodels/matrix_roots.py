"""cov(F_s)^(1/2) cov(F_c)^(-1/2), with a relative floor under the content's eigenvalues: by eigenvalues or by products.

The products are the coupled Newton-Schulz iteration, for ONNX, which has no eigenvalues: from Y_0 = A and Z_0 = I

    T = (3 I - Z Y) / 2,   Y <- Y T -> A^(1/2),   Z <- T Z -> A^(-1/2)

for eigenvalues between 0 and 3. While one of Z Y is small it grows 9/4 times a step; near 1 its distance is squared.
Source: Higham 2008, Functions of Matrices, equation 6.35.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log
from typing import TypeAlias

import torch
from torch import Tensor

from stylemodels.whitening import matrix_power

Roots: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]

NO_SPREAD = 1e-12  # below this largest eigenvalue all features count as equal
TINY = 1e-300  # instead of nothing, to divide by
LEAST_STEPS = 26  # a root is exact to 3e-5 of the largest one
SQUARINGS = 16  # a power of 65,536 is all in the direction of the largest eigenvalue


def by_eigenvalues(content: Tensor, style: Tensor, eps: float) -> Tensor:
    """The matrix that gives features of covariance `content` the covariance `style`, float64.

    content, style: (N, C, C), symmetric. eps: floor under the content's eigenvalues, relative to the largest; the
    style's have none. Zero where the content has no spread. Raises ValueError when a value is no number.
    """
    return matrix_power(style, 0.5, 0.0) @ inverse_root(content, eps)


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


def by_products(content: Tensor, style: Tensor, eps: float) -> Tensor:
    """As `by_eigenvalues` but for rounding, of positive semidefinite matrices."""
    both = torch.cat([content, style]).double()
    identity = torch.eye(both.shape[-1], dtype=both.dtype, device=both.device)
    largest = largest_eigenvalue(both, identity)
    floors = torch.tensor([eps] * len(content) + [0.0] * len(style), dtype=both.dtype, device=both.device)
    root = both / largest.clamp_min(NO_SPREAD) + floors[:, None, None] * identity
    half = (-0.5 * identity).expand_as(root)  # -Z / 2, which saves a product with a number in each step
    for _ in range(max(LEAST_STEPS, ceil(log(1 / eps) / log(9 / 4)) + 8)):
        turn = torch.baddbmm(1.5 * identity, half, root)
        root, half = torch.bmm(root, turn), torch.bmm(turn, half)
    own, painted = largest.chunk(2)
    inverse = torch.where(own < NO_SPREAD, 0.0, -2 * half.chunk(2)[0] * own.clamp_min(NO_SPREAD).rsqrt())
    return torch.bmm(root.chunk(2)[1] * painted.sqrt(), inverse)


def largest_eigenvalue(matrix: Tensor, identity: Tensor) -> Tensor:
    """Of positive semidefinite matrices (N, C, C): (N, 1, 1), by way of a high power."""
    power = matrix
    for squaring in range(SQUARINGS):
        if squaring % 4 == 0:  # it would become too small for a float
            power = power / trace(power, identity).clamp_min(TINY)
        power = torch.bmm(power, power)
    return trace(torch.bmm(matrix, power), identity) / trace(power, identity).clamp_min(TINY)


def trace(matrix: Tensor, identity: Tensor) -> Tensor:
    """(N, C, C) -> (N, 1, 1)."""
    return (matrix * identity).sum((1, 2), keepdim=True)
