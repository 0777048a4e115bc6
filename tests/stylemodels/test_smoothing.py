"""Local affine smoothing: section 3.4 and check 12 of paper 09."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.testing import assert_close

from stylemodels import smoothing
from stylemodels.smoothing import smoothed
from tests.stylemodels.toy import photos

Grid = NDArray[np.float64]


def fitted(output: Grid, content: Grid, row: int, column: int, ridge: float) -> Grid:
    """A (3 x 4) at one pixel. output, content: (H, W, 3)."""
    normal, right = np.diag([ridge, ridge, ridge, 0.0]), np.zeros((4, 3))
    for y in range(max(row - 1, 0), min(row + 2, content.shape[0])):
        for x in range(max(column - 1, 0), min(column + 2, content.shape[1])):
            known = np.append(content[y, x], 1)
            normal += np.outer(known, known)
            right += np.outer(known, output[y, x])
    return np.linalg.solve(normal, right).T


def brute_force(output: Grid, content: Grid, radius: int, edge: float, ridge: float) -> Grid:
    height, width, _ = content.shape
    maps = [[fitted(output, content, y, x, ridge) for x in range(width)] for y in range(height)]
    result, sigma = np.zeros_like(content), radius / 3
    for row in range(height):
        for column in range(width):
            total, weights = np.zeros((3, 4)), 0.0
            for y in range(max(row - radius, 0), min(row + radius + 1, height)):
                for x in range(max(column - radius, 0), min(column + radius + 1, width)):
                    colour = float(np.mean((content[row, column] - content[y, x]) ** 2))
                    place = (row - y) ** 2 + (column - x) ** 2
                    weight = math.exp(-place / (2 * sigma**2)) * math.exp(-colour / (2 * edge**2))
                    total, weights = total + weight * maps[y][x], weights + weight
            result[row, column] = total / weights @ np.append(content[row, column], 1)
    return result.clip(0, 1)


@pytest.mark.parametrize("band_rows", [2, 32])
def test_check_12_it_equals_brute_force(band_rows: int, monkeypatch: pytest.MonkeyPatch):
    """Also where the picture is worked on in several bands."""
    monkeypatch.setattr(smoothing, "BAND_ROWS", band_rows)
    content, output = photos(1, 9, seed=1).double()[..., :7, :], photos(1, 9, seed=2).double()[..., :7, :]
    got = smoothed(output, content, radius=3, edge=0.2, ridge=1e-3)
    as_grids = [picture[0].permute(1, 2, 0).numpy() for picture in (output, content)]
    expected = torch.from_numpy(brute_force(as_grids[0], as_grids[1], 3, 0.2, 1e-3)).permute(2, 0, 1)[None]
    assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("ridge", "tolerance"), [(1e-9, 1e-6), (1e-3, 1e-2)])
def test_check_12_a_global_affine_function_of_the_photo_is_kept(ridge: float, tolerance: float):
    content = photos(1, 24, seed=3).double()
    turn = torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.3, 0.2], [0.0, 0.1, 0.6]], dtype=torch.float64)
    output = torch.einsum("ij,njhw->nihw", turn, content) + 0.1
    assert_close(smoothed(output, content, radius=4, ridge=ridge), output, rtol=0, atol=tolerance)


def test_noise_that_the_photo_does_not_have_is_smoothed_away():
    content = photos(1, 40)
    noise = 0.1 * torch.randn(content.shape, generator=torch.Generator().manual_seed(5))
    clean = (0.6 * content + 0.2).clamp(0, 1)
    got = smoothed(clean + noise, content)
    assert (got - clean).abs().mean() < 0.4 * noise.abs().mean()


def test_a_radius_of_zero_changes_nothing():
    content, output = photos(2, 16).split(1)
    assert torch.equal(smoothed(output, content, radius=0), output)


def test_a_constant_photo_gives_finite_colours():
    content, output = torch.full((1, 3, 16, 16), 0.5), photos(1, 16)
    assert smoothed(output, content).isfinite().all()


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) cannot be smoothed along one of \(1, 3, 16, 12\)"):
        smoothed(photos(1, 16), photos(1, 16)[..., :12])
