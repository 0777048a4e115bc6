"""Style swap: every patch of a content feature map replaced by the style's patch that looks most like it.

    q*(p) = argmax_q  <P_c(p), P_s(q)> / |P_s(q)|        the content's own norm does not change the order
    out   = the mean of the patches P_s(q*(p)) that lie over a cell

An inner product of patches is a sum of inner products of cells along a diagonal, so one product of matrices with C
columns and a sum along diagonals do for what convolutions with patch_size^2 * C would: 25 times fewer multiplications.
Sources: Chen & Schmidt 2016 (arXiv:1612.04337); Sheng et al. 2018 (arXiv:1805.03857).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from stylemodels.features import at_least_float32

NORM_EPS = 1e-7
BAND_NUMBERS = 1 << 25  # inner products of cells that are held at once: 128 MiB in float32


def style_swap(content: Tensor, style: Tensor, *, patch_size: int, band_rows: int = 32) -> Tensor:
    """`content` made of the patches of `style`, pair by pair.

    content: (N, C, H, W), sides longer than patch_size // 2 cells. style: (N, C, h, w), any h, w. Both as they shall be
    compared: whitened, or as the encoder gives them. Patches of `patch_size` cells, odd, lie around every cell; beyond
    the border content is reflected and style is zero.

    Returns (N, C, H, W), float32 (float64 stays float64); patches keep their lengths. Raises ValueError for an even
    patch_size or a smaller content.
    """
    check_patches(content, patch_size)
    pairs = zip(at_least_float32(content), at_least_float32(style), strict=True)
    with torch.autocast(content.device.type, enabled=False):
        return torch.stack([pasted(s, matches(c, s, patch_size, band_rows), patch_size) for c, s in pairs])


def check_patches(content: Tensor, patch_size: int) -> None:
    """Raises ValueError for patches that are even, or reach too far beyond the border of `content` (..., H, W)."""
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"patch_size: {patch_size} was given, it must be odd: a patch lies around its cell")
    if min(content.shape[-2:]) <= patch_size // 2:
        sides = " x ".join(map(str, content.shape[-2:]))
        raise ValueError(
            f"content: its features have {sides} cells, too few for patches of {patch_size} x {patch_size}"
        )


def matches(content: Tensor, style: Tensor, patch_size: int, band_rows: int) -> Tensor:
    """Which cell of `style` (C, h, w) has the patch most like that around each cell of `content` (C, H, W).

    band_rows: rows of content at a time; fewer, and at last parts of rows, where they would not fit into BAND_NUMBERS.
    Returns (H, W), int64: y * w + x. Of equal ones the first.
    """
    radius = patch_size // 2
    border = (radius,) * 4
    around, offered = pad(content, border, mode="reflect"), pad(style, border)
    rows, columns = (side + 2 * radius for side in style.shape[1:])
    squares = offered.square().sum(0, keepdim=True)
    inverse = 1 / (avg_pool2d(squares, patch_size, stride=1, divisor_override=1)[0].sqrt() + NORM_EPS)
    height, width = content.shape[1:]
    lines = BAND_NUMBERS // (rows * columns)  # cells of content that are held at once
    across = min(width, max(lines // patch_size - 2 * radius, 1))
    down = min(height, band_rows, max(lines // (across + 2 * radius) - 2 * radius, 1))
    found = torch.empty(height, width, dtype=torch.int64, device=content.device)
    for top, left in product(range(0, height, down), range(0, width, across)):
        band = around[:, top : top + down + 2 * radius, left : left + across + 2 * radius]
        products = (band.flatten(1).T @ offered.flatten(1)).view(*band.shape[1:], rows, columns)
        scores = diagonal_sums(diagonal_sums(products, 0, patch_size), 1, patch_size)
        found[top : top + down, left : left + across] = scores.mul_(inverse).flatten(2).argmax(2)
    return found


def diagonal_sums(products: Tensor, dim: int, length: int) -> Tensor:
    """Sums of `length` entries along the diagonals of two dimensions, `dim` of the content and `dim + 2` of the style.

    products: (Y, X, y, x). Returns the same with `length - 1` fewer entries along both.
    """
    kept = [products.shape[d] - length + 1 for d in (dim, dim + 2)]
    parts = (products.narrow(dim, d, kept[0]).narrow(dim + 2, d, kept[1]) for d in range(length))
    total = next(parts).clone()
    for part in parts:
        total += part
    return total


def pasted(style: Tensor, index: Tensor, patch_size: int) -> Tensor:
    """The patches of `style` (C, h, w) around the cells that `index` (H, W) names, laid over its cells and averaged.

    Returns (C, H, W).
    """
    radius = patch_size // 2
    height, width = index.shape
    offered = pad(style, (radius,) * 4)
    top_left = index // style.shape[2] * offered.shape[2] + index % style.shape[2]
    total = style.new_zeros(style.shape[0], height + 2 * radius, width + 2 * radius)
    for down in range(patch_size):
        for right in range(patch_size):
            cells = offered.flatten(1)[:, (top_left + (down * offered.shape[2] + right)).flatten()]
            total[:, down : down + height, right : right + width] += cells.view(-1, height, width)
    inside = total[:, radius : radius + height, radius : radius + width]
    return inside / coverage(height, width, patch_size).to(total)


def coverage(height: int, width: int, patch_size: int) -> Tensor:
    """How many patches lie over each of `height` x `width` cells: patch_size^2 inside, fewer near the border."""
    cells = torch.ones(1, height, width)
    return avg_pool2d(cells, patch_size, stride=1, padding=patch_size // 2, divisor_override=1)[0]


def resized(style: Tensor, beta: float) -> Tensor:
    """Style features at `beta` times their size, rounded down: the smaller, the more of the style a patch spans.

    style: (N, C, h, w). Returns (N, C, max(1, floor(beta h)), max(1, floor(beta w))), bilinear.
    """
    if beta == 1:
        return style
    height, width = (max(int(beta * side), 1) for side in style.shape[-2:])
    return interpolate(style, size=(height, width), mode="bilinear", align_corners=False)


def swapped_part(image: Tensor, shorter: int, crop: int) -> Tensor:
    """What of a style picture (1, 3, H, W) patches are taken from: its middle, scaled down before if it is large.

    shorter: the longest that its shorter side may be, pixels. crop: the longest that both may be. 0: any length.
    """
    side = min(image.shape[-2:])
    if 0 < shorter < side:
        sides = [round(length * shorter / side) for length in image.shape[-2:]]
        image = interpolate(image, size=sides, mode="bilinear", antialias=True)
    height, width = (min(length, crop or length) for length in image.shape[-2:])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]
