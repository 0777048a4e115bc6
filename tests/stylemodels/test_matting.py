"""The matting Laplacian against its matrix; check 11 of paper 11."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.matting import LARGEST_EIGENVALUE, MattingLaplacian, box, conjugate_gradients, spread

HEIGHT, WIDTH, EPS = 9, 11, 1e-4


def random_picture(seed: int, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(photo: Tensor, eps: float = EPS) -> np.ndarray:
    """M, entry by entry, from the sum over windows."""
    height, width = photo.shape[-2:]
    colours = photo[0].numpy().reshape(3, -1)
    matrix = np.zeros((height * width, height * width))
    for top in range(height - 2):
        for left in range(width - 2):
            window = [(top + y) * width + left + x for y in range(3) for x in range(3)]
            centred = colours[:, window] - colours[:, window].mean(1, keepdims=True)
            covariance = centred @ centred.T / 9
            affinity = centred.T @ np.linalg.inv(covariance + eps / 9 * np.eye(3)) @ centred
            matrix[np.ix_(window, window)] += np.eye(9) - (1 + affinity) / 9
    return matrix


def test_check_11_the_product_is_that_of_the_explicit_matrix():
    photo, picture = random_picture(0), random_picture(1, channels=2)
    expected = picture[0].numpy().reshape(2, -1) @ matrix_of(photo)
    found = MattingLaplacian(photo, eps=EPS)(picture)[0].numpy().reshape(2, -1)
    assert np.abs(found - expected).max() <= 1e-10


def test_check_11_a_constant_has_no_energy_and_an_affine_map_of_the_photo_hardly_any():
    photo = random_picture(0)
    matting = MattingLaplacian(photo, eps=EPS)
    assert matting(torch.ones_like(photo)).abs().max() < 1e-10
    recoloured = torch.einsum("ij,njyx->niyx", random_picture(2, 1, 3, 3)[0, 0], photo) + 0.2
    assert 0 <= matting.energy(recoloured) < 0.01 * matting.energy(random_picture(1))


def test_no_eigenvalue_is_negative_or_above_the_bound():
    eigenvalues = np.linalg.eigvalsh(matrix_of(random_picture(0)))
    assert eigenvalues.min() > -1e-10
    assert eigenvalues.max() <= LARGEST_EIGENVALUE


def test_spreading_is_the_adjoint_of_the_sum_over_windows():
    picture, windows = random_picture(3), random_picture(4, height=HEIGHT - 2, width=WIDTH - 2)
    assert_close((box(picture) * windows).sum(), (picture * spread(windows)).sum())


def test_conjugate_gradients_solve_what_numpy_solves():
    matrix = np.eye(HEIGHT * WIDTH) + matrix_of(random_picture(0))
    right = random_picture(1, channels=1).flatten()
    product = torch.from_numpy(matrix)
    found = conjugate_gradients(lambda x: product @ x, right, torch.zeros_like(right), 100)
    assert_close(found, torch.from_numpy(np.linalg.solve(matrix, right.numpy())), rtol=1e-6, atol=1e-7)


def test_conjugate_gradients_stop_where_they_are_done():
    calls = []

    def product(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    right = random_picture(1)
    assert_close(conjugate_gradients(product, right, right, 100), right / 2)
    assert len(calls) == 2, "one for the residual, one step"
    assert conjugate_gradients(product, 0 * right, 0 * right, 100).count_nonzero() == 0


def test_a_photo_without_a_window_is_refused():
    with pytest.raises(ValueError, match="content: 5 x 2 px"):
        MattingLaplacian(torch.rand(1, 3, 2, 5), eps=EPS)
