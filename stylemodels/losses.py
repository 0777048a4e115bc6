"""Loss terms that several methods share. Means, not sums: a weight means the same at every size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from stylemodels.features import at_least_float32, gram


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
