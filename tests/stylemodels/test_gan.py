"""The relativistic loss, and the pool of what the critic has seen before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stylemodels.gan import relativistic_critic_loss, relativistic_generator_loss
from stylemodels.replay import ReplayPool


def scores(seed: int) -> torch.Tensor:
    return 3 * torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_critic_that_cannot_tell_loses_exactly_one_and_so_does_the_generator():
    """Check 6."""
    constant = torch.full((2, 1, 5, 4), 0.75)
    assert relativistic_critic_loss(constant, constant).item() == 1
    assert relativistic_generator_loss(constant, constant).item() == 1


def test_the_generator_s_loss_is_the_critic_s_with_the_roles_exchanged():
    """Check 6."""
    real, fake = scores(0), scores(1)
    assert torch.equal(relativistic_generator_loss(real, fake), relativistic_critic_loss(fake, real))
    assert relativistic_critic_loss(real, fake) != relativistic_critic_loss(fake, real)


def test_the_losses_are_those_of_the_paper():
    """Check 6: equations 7 and 11, halved, picture by picture."""
    critic, generator = [], []
    for real, fake in zip(scores(0).numpy(), scores(1).numpy(), strict=True):
        critic.append((np.mean((real - fake.mean() - 1) ** 2) + np.mean((real.mean() - fake - 1) ** 2)) / 2)
        generator.append((np.mean((real - fake.mean() + 1) ** 2) + np.mean((real.mean() - fake + 1) ** 2)) / 2)
    assert relativistic_critic_loss(scores(0), scores(1)).item() == pytest.approx(np.mean(critic))
    assert relativistic_generator_loss(scores(0), scores(1)).item() == pytest.approx(np.mean(generator))


def numbered(number: int) -> torch.Tensor:
    return torch.full((1, 3, 4, 4), float(number))


def test_a_pool_gives_back_what_it_is_given_until_it_is_full_and_then_also_what_was_earlier():
    torch.manual_seed(0)
    pool = ReplayPool(5, 3, 4)
    assert [int(pool(numbered(n))[0, 0, 0, 0]) for n in range(5)] == list(range(5))
    given = [int(pool(numbered(n))[0, 0, 0, 0]) for n in range(5, 405)]
    new = sum(got == n for n, got in enumerate(given, start=5))
    assert 150 < new < 250, "every other time"
    earlier = [got for n, got in enumerate(given, start=5) if got != n]
    assert all(got < n for n, got in enumerate(given, start=5) if got != n)
    assert len(earlier) == len(set(earlier)), "what was given back is no longer in the pool"


def test_a_pool_is_in_its_buffers_from_the_start_and_passes_no_gradient():
    pool = ReplayPool(2, 3, 4)
    assert {name: tuple(value.shape) for name, value in pool.state_dict().items()} == {"kept": (2, 3, 4, 4), "held": ()}
    assert not pool(numbered(1).requires_grad_()).requires_grad


def test_a_pool_without_room_gives_everything_back():
    pool = ReplayPool(0, 3, 4)
    assert all(torch.equal(pool(numbered(n)), numbered(n)) for n in range(3))


def test_a_pool_keeps_pictures_to_a_sixteenth_of_a_level():
    torch.manual_seed(1)
    pool, picture = ReplayPool(1, 3, 4), 2 * torch.rand(1, 3, 4, 4) - 1
    pool(picture)
    assert_close(pool.kept.float(), picture, atol=2 / 255 / 16, rtol=0)
