"""Loss terms that several methods share. Means, not sums: a weight means the same at every size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from stylemodels.features import at_least_float32, gram, mean_std


def content_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two feature maps of one shape, a scalar.

    Source: Johnson et al. 2016 (arXiv:1603.08155), equation 2.
    """
    return mse_loss(at_least_float32(output), at_least_float32(target))


def gram_loss(output: Mapping[str, Tensor], target_grams: Mapping[str, Tensor]) -> Tensor:
    """Sum over the taps of `target_grams` of the mean squared difference of Gram matrices, a scalar.

    output: tap -> (N, C, H, W). target_grams: tap -> (1, C, C) for one style or (N, C, C) for one per picture.
    The matrix is divided by C*H*W (`features.gram`), so the term does not depend on the size of either picture.
    Source: Johnson et al. 2016 (arXiv:1603.08155), equation 4, with a mean in place of the squared Frobenius norm.
    """
    terms = []
    for tap, target in target_grams.items():
        own = gram(output[tap])
        terms.append(mse_loss(own, target.expand_as(own)))
    return torch.stack(terms).sum()


def statistics_loss(output: Tensor, style: Tensor, *, correction: int = 0) -> Tensor:
    """Mean squared differences of channel means and of channel standard deviations: one tap's term, a scalar.

    output: (N, C, H, W), style: (N, C, H', W') or one for all, (1, C, H', W'). correction: `features.mean_std`'s.
    Source: Huang & Belongie 2017 (arXiv:1703.06868), equation 13, with means in place of norms.
    """
    (mean, std), (style_mean, style_std) = (
        mean_std(output, correction=correction),
        mean_std(style, correction=correction),
    )
    return mse_loss(mean, style_mean.expand_as(mean)) + mse_loss(std, style_std.expand_as(std))


def tv_loss(images: Tensor) -> Tensor:
    """Total variation: mean squared differences of neighbouring pixels, across and down, a scalar.

    images: (N, C, H, W), sides from 2 px.
    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2, squared and as a mean.
    """
    images = at_least_float32(images)
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    return across.square().mean() + down.square().mean()
