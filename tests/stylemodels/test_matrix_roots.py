"""The matrix that turns one covariance into another, by eigenvalues and by products alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.matrix_roots import by_eigenvalues, by_products, inverse_root, largest_eigenvalue


def covariance(channels: int = 12, rank: int = 12, *, seed: int = 0, spread: float = 2.0) -> Tensor:
    """Of two pictures; the eigenvalues fall over `spread` orders of magnitude."""
    random = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(2, channels, channels, generator=random, dtype=torch.float64))[0]
    values = torch.zeros(channels, dtype=torch.float64)
    values[:rank] = 10 ** -torch.linspace(0, spread, rank, dtype=torch.float64)
    return 3 * (vectors * values) @ vectors.transpose(1, 2)


def test_check_1_the_matrix_takes_one_covariance_to_the_other():
    own, painted = covariance(), covariance(seed=1)
    matrix = by_eigenvalues(own, painted, 0.0)
    assert_close(matrix @ own @ matrix.transpose(1, 2), painted, rtol=0, atol=1e-10)


def test_check_1_whitened_eigenvalues_are_as_the_relative_floor_says():
    own, eps = covariance(spread=6.0), 1e-3
    root = inverse_root(own, eps)
    values = torch.linalg.eigvalsh(own)
    expected = values / (values + eps * values[:, -1:])
    assert_close(torch.linalg.eigvalsh(root @ own @ root), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rank", "spread"), [(12, 2.0), (12, 8.0), (5, 3.0)])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_products_alone_give_what_eigenvalues_give(rank: int, spread: float, eps: float):
    own, painted = covariance(rank=rank, spread=spread), 100 * covariance(rank=rank, spread=spread, seed=1)
    expected = by_eigenvalues(own, painted, eps)
    assert_close(by_products(own, painted, eps), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("roots", [by_eigenvalues, by_products])
def test_without_spread_on_either_side_the_matrix_is_zero(roots):
    some, none = covariance(), torch.zeros(2, 12, 12, dtype=torch.float64)
    for own, painted in ((some, none), (none, some), (none, none)):
        assert torch.count_nonzero(roots(own, painted, 1e-5)) == 0


def test_the_largest_eigenvalue_is_found_beside_one_that_is_nearly_as_large():
    values = torch.full((448,), 1.0, dtype=torch.float64)
    values[0] = 1.001
    identity = torch.eye(448, dtype=torch.float64)
    assert_close(largest_eigenvalue(torch.diag(values)[None], identity).item(), 1.001, rtol=1e-9, atol=0)


def test_values_that_are_no_numbers_are_refused():
    broken = covariance()
    broken[1, 2, 3] = float("nan")
    for own, painted in ((broken, covariance()), (covariance(), broken)):
        with pytest.raises(ValueError, match="features: some are not finite"):
            by_eigenvalues(own, painted, 1e-5)
