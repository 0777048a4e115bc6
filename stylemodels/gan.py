"""The relativistic average least-squares GAN: a critic says how much more real the one is than the other on average.

Source: Jolicoeur-Martineau 2018 (arXiv:1807.00734), section 4, with half of each sum: both losses are exactly 1 where
the critic cannot tell. Averages are taken of one picture's map of scores, so a batch gives the mean of its pictures'
losses.
"""

from __future__ import annotations

from torch import Tensor

from stylemodels.features import at_least_float32


def relativistic_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises, a scalar from 0: real scores one more than the average fake, fakes one less.

    real, fake: (N, 1, h, w), scores of any range; picture n of one is held against picture n of the other.
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    mean_real, mean_fake = real.mean((1, 2, 3), keepdim=True), fake.mean((1, 2, 3), keepdim=True)
    return ((real - mean_fake - 1).square().mean() + (mean_real - fake - 1).square().mean()) / 2


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the generator minimises: the critic's loss with the roles exchanged, arguments as there."""
    return relativistic_critic_loss(fake, real)
