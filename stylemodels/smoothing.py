"""Local affine smoothing: the last step of photo-realistic transfer.

Around every pixel the picture is a function A [I; 1] of the photo's colours; A is smoothed along the photo's edges and
applied to the photo again. What is left are the photo's own structures in the picture's colours.

Source: Li et al. 2019 (arXiv:1808.04537), its published code; the idea is Levin et al.'s matting Laplacian.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

BAND_ROWS = 32  # worked on at once: coefficients of so many rows stay in a core's cache


def smoothed(
    output: Tensor,
    content: Tensor,
    *,
    radius: int = 15,
    edge: float = 0.1,
    ridge: float = 1e-3,
    report: Callable[[float], None] | None = None,
) -> Tensor:
    """`output` with the structures of `content` and its own local colours.

    output, content: (1, 3, H, W), RGB in [0, 1]. radius: of the square window, pixels; 0 gives `output` back.
    edge: standard deviation of the range Gaussian, over the root mean square colour difference.
    ridge: added to the colour diagonals of the summed normal equations. report: told how much is done, 0 to 1.

    Returns (1, 3, H, W) in [0, 1]. Raises ValueError when the sizes differ.
    """
    if output.shape != content.shape:
        raise ValueError(f"a picture of {tuple(output.shape)} cannot be smoothed along one of {tuple(content.shape)}")
    if radius == 0:
        return output
    height = content.shape[-2]
    bands = []
    for top in range(0, height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height)
        # The filter looks `radius` rows up and down, the fit below it one more.
        first, last = max(top - radius - 1, 0), min(bottom + radius + 1, height)
        photo = content[..., first:last, :]
        maps = local_affine(output[..., first:last, :], photo, ridge=ridge)
        rows = slice(top - first, bottom - first)
        bands.append(applied(joint_bilateral(maps, photo, rows, radius=radius, edge=edge), photo[..., rows, :]))
        if report is not None:
            report(bottom / height)
    return torch.cat(bands, 2).clamp(0, 1)


def local_affine(output: Tensor, content: Tensor, *, ridge: float) -> Tensor:
    """The least squares A (3 x 4) of `output` = A [content; 1] over the 3 x 3 window of every pixel, clipped.

    Returns (N, 12, H, W), row by row of A, in the dtype of `output`; solved in float64.
    """
    known = torch.cat([content, torch.ones_like(content[:, :1])], 1).double()
    penalty = torch.diag(torch.tensor([ridge, ridge, ridge, 0.0], dtype=torch.float64, device=content.device))
    solved: Tensor = torch.linalg.solve(window_sums(known, known) + penalty, window_sums(known, output.double()))
    return solved.permute(0, 4, 3, 1, 2).flatten(1, 2).to(output.dtype)


def window_sums(first: Tensor, second: Tensor) -> Tensor:
    """Sums of outer products over 3 x 3 windows: (N, A, H, W) and (N, B, H, W) -> (N, H, W, A, B)."""
    products = (first[:, :, None] * second[:, None]).flatten(1, 2)
    sums = avg_pool2d(products, 3, stride=1, padding=1) * 9  # what lies outside counts as 0
    return sums.movedim(1, 3).reshape(*sums.movedim(1, 3).shape[:3], first.shape[1], second.shape[1])


def joint_bilateral(maps: Tensor, content: Tensor, rows: slice, *, radius: int, edge: float) -> Tensor:
    """Weighted means of `maps` over the square around each pixel of `rows`: near in place and near in `content`.

    maps: (1, C, H, W), content: (1, 3, H, W). Both Gaussians: exp(-d^2 / 2 sigma^2), over places with sigma radius / 3,
    over colours with sigma `edge` and d^2 the channels' mean. Weights are normalised over what is inside.
    Returns (1, C, rows, W).
    """
    scaled = content / (edge * (2 * content.shape[1]) ** 0.5)
    height, width = content.shape[-2:]
    total = torch.zeros_like(maps[..., rows, :])
    weights = torch.zeros_like(total[:, :1])
    for down in range(-radius, radius + 1):
        first, last = max(rows.start, -down), min(rows.stop, height - down)
        for across in range(-radius, radius + 1):
            left, right = max(0, -across), min(width, width - across)
            if first >= last or left >= right:
                continue
            there = (..., slice(first + down, last + down), slice(left + across, right + across))
            distance = (scaled[..., first:last, left:right] - scaled[there]).square_().sum(1, keepdim=True)
            weight = distance.add_((down**2 + across**2) / (2 * (radius / 3) ** 2)).neg_().exp_()
            here = (..., slice(first - rows.start, last - rows.start), slice(left, right))
            total[here].addcmul_(weight, maps[there])
            weights[here].add_(weight)
    return total / weights


def applied(maps: Tensor, content: Tensor) -> Tensor:
    """A [content; 1] at every pixel: maps (N, 12, H, W), content (N, 3, H, W) -> (N, 3, H, W)."""
    count, _, height, width = maps.shape
    matrices = maps.reshape(count, 3, 4, height, width)
    result: Tensor = (matrices[:, :, :3] * content[:, None]).sum(2) + matrices[:, :, 3]
    return result
