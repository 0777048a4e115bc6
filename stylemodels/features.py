"""Statistics of feature maps that several methods share. All are taken in float32, also under autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_std(features: Tensor, eps: float = 1e-5, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel over its positions.

    features: (N, C, H, W), any real dtype; the statistics are taken in float32 (float64 stays float64).
    eps: added to the variance, so a constant channel has std sqrt(eps) and not 0.
    correction: the variance is divided by H*W - correction.

    Returns mean and std, each (N, C, 1, 1).
    Raises ValueError below two positions per channel: the spread of one value means nothing.
    Source: Huang & Belongie 2017 (arXiv:1703.06868), equations 5 and 6.
    """
    if features.shape[-2] * features.shape[-1] < 2:
        raise ValueError(f"features of {features.shape[-2]} x {features.shape[-1]} have no spread, two positions have")
    variance, mean = torch.var_mean(at_least_float32(features), dim=(2, 3), keepdim=True, correction=correction)
    return mean, (variance + eps).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Content features with the channel means and standard deviations of style features.

    content: (N, C, H, W), style: (N, C, H', W') with any H', W'. Returns (N, C, H, W).
    Source: Huang & Belongie 2017 (arXiv:1703.06868), equation 8.
    """
    content_mean, content_std = mean_std(content)
    style_mean, style_std = mean_std(style)
    return (content - content_mean) / content_std * style_std + style_mean


def gram(features: Tensor) -> Tensor:
    """Gram matrix of every picture's channels, not centred, divided by C*H*W.

    features: (N, C, H, W), any real dtype. Returns (N, C, C), float32 (float64 stays float64), whatever the H and W.
    Source: Johnson et al. 2016 (arXiv:1603.08155), equation 3.
    """
    count, channels, height, width = features.shape
    # bmm is one of the functions that autocast would take down to bfloat16
    with torch.autocast(features.device.type, enabled=False):
        flat = at_least_float32(features).reshape(count, channels, height * width)
        return flat @ flat.transpose(1, 2) / (channels * height * width)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precisions as float32; float32 and float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()
