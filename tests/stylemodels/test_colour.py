"""Colours that stay the content's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from stylemodels.colour import coral, coral_map, luma, luminance_only
from stylemodels.whitening import Moments
from tests.images import photograph


def picture(width: int, height: int, seed: int) -> Tensor:
    """(1, 3, H, W), float64."""
    return torch.from_numpy(photograph(width, height, seed)).permute(2, 0, 1)[None].double() / 255


def ycbcr(image: Tensor) -> Tensor:
    """BT.601, full range, by its published matrix: (1, 3, H, W)."""
    matrix = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=image.dtype
    )
    return torch.einsum("ij,njhw->nihw", matrix, image)


def colour_statistics(image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """numpy's mean and covariance, over N - 1."""
    pixels = image[0].flatten(1).numpy().astype(np.float64)
    return pixels.mean(1), np.cov(pixels)


def test_luminance_is_the_outputs_and_chroma_the_contents():
    output, content = picture(40, 30, 1), picture(40, 30, 2)
    kept = ycbcr(luminance_only(output, content))
    assert_close(kept[:, 0], ycbcr(output)[:, 0], atol=1e-6, rtol=0)
    assert_close(kept[:, 1:], ycbcr(content)[:, 1:], atol=2e-6, rtol=0)


def test_luma_is_that_of_pillows_ycbcr():
    pixels = photograph(40, 30)
    expected = np.asarray(Image.fromarray(pixels).convert("YCbCr"))[..., 0]
    ours = luma(torch.from_numpy(pixels).permute(2, 0, 1)[None].double())[0, 0].numpy()
    assert np.abs(ours - expected).max() <= 1


def test_a_picture_keeps_itself():
    content = picture(40, 30, 3)
    assert_close(luminance_only(content, content), content, atol=1e-12, rtol=0)
    assert_close(coral(content, content), content, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(64, 48), (31, 17), (200, 10)])
def test_check_10_coral_gives_a_style_the_contents_mean_and_covariance(size: tuple[int, int]):
    """Check 10 of SANet, its CORAL part: within 1e-4, whatever the numbers of pixels; also in single precision."""
    content, style = picture(64, 48, 1), picture(*size, 2)
    expected_mean, expected_covariance = colour_statistics(content)
    for dtype in (torch.float64, torch.float32):
        mean, covariance = colour_statistics(coral(style.to(dtype), content.to(dtype)))
        assert np.abs(mean - expected_mean).max() < 1e-4
        assert np.abs(covariance - expected_covariance).max() < 1e-4


def test_coral_is_the_formula_of_the_paper():
    content, style = picture(64, 48, 4), picture(50, 60, 5)
    (content_mean, content_covariance), (style_mean, style_covariance) = map(colour_statistics, (content, style))

    def root(covariance: np.ndarray, power: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(covariance)
        return vectors @ np.diag(values**power) @ vectors.T

    matrix = root(content_covariance, 0.5) @ root(style_covariance, -0.5)
    pixels = style[0].flatten(1).numpy()
    expected = matrix @ (pixels - style_mean[:, None]) + content_mean[:, None]
    assert np.abs(coral(style, content)[0].flatten(1).numpy() - expected).max() < 1e-9


@pytest.mark.parametrize("gray_style", [True, False])
@pytest.mark.parametrize("gray_content", [True, False])
def test_gray_pictures_stay_finite(gray_style: bool, gray_content: bool):
    content, style = picture(64, 48, 1), picture(40, 40, 2)
    content = luma(content).expand_as(content) if gray_content else content
    style = luma(style).expand_as(style) if gray_style else style
    result = coral(style.float(), content.float())
    assert result.isfinite().all()
    assert_close(result.mean((0, 2, 3)), content.float().mean((0, 2, 3)), atol=1e-4, rtol=0)
    if gray_content:
        assert (result - luma(result)).abs().max() < 1e-4, "gray like the content"


def test_a_constant_style_becomes_the_contents_mean_colour():
    content, style = picture(64, 48, 1), torch.full((1, 3, 8, 8), 0.3, dtype=torch.float64)
    assert_close(coral(style, content), content.mean((2, 3), keepdim=True).expand(1, 3, 8, 8), atol=1e-9, rtol=0)


def test_moments_that_came_in_strips_give_the_same_map():
    content, style = picture(64, 48, 1), picture(50, 60, 5)
    moments = Moments()
    for strip in content.split(7, dim=2):
        moments.add(strip)
    assert_close(coral_map(Moments.of(style), moments)(style), coral(style, content), atol=1e-9, rtol=0)
