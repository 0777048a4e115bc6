"""Keeping the content's colours: only brightness from the style, or styles recoloured beforehand.

Pictures are RGB in sRGB's curve, (N, 3, H, W).
"""

from __future__ import annotations

from torch import Tensor

from stylemodels.whitening import AffineMap, Moments, wct_map

LUMA = (0.299, 0.587, 0.114)  # BT.601
COLOUR_EPS = 1e-5  # the square of 0.8 levels of 8 bits: below that it is rounding and not colour


def luma(image: Tensor) -> Tensor:
    """Y of YCbCr (BT.601, full range), which YIQ shares: (N, 1, H, W)."""
    red, green, blue = (weight * image[:, n : n + 1] for n, weight in enumerate(LUMA))
    return red + green + blue


def luminance_only(output: Tensor, content: Tensor) -> Tensor:
    """The output's Y with the content's Cb and Cr (YCbCr, BT.601, full range).

    Gray is the axis of Y, so it is enough to add the difference of Y to all channels. Not clamped: a colour that the
    new brightness cannot have lies outside [0, 1]. Both (N, 3, H, W), of the same size, and so is the result.
    Source: Gatys et al. 2016 (arXiv:1606.05897), section 3.2.
    """
    return content + (luma(output) - luma(content))


def coral(style: Tensor, content: Tensor) -> Tensor:
    """`style` (1, 3, H', W') with the mean and covariance of the colours of `content` (1, 3, H, W); not clamped.

    What a style does not have cannot be scaled up: a gray style stays gray.
    """
    return coral_map(Moments.of(style), Moments.of(content))(style)


def coral_map(style: Moments, content: Moments) -> AffineMap:
    """C_c^(1/2) C_s^(-1/2) (s - m_s) + m_c, from the moments of the colours of style and content.

    Covariances are divided by N - 1, so numbers of pixels do not matter. Variances up to `COLOUR_EPS` are left out
    rather than raised, as adding 1e-5 I would: so the result is exact also for pale styles, and gray remains gray.
    Source: Gatys et al. 2016 (arXiv:1606.05897), equations 1 to 3, with symmetric roots.
    """
    return wct_map(style, content, eps=COLOUR_EPS)
