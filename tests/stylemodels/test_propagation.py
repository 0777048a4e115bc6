"""Spatial propagation: section 3.3 and checks 1, 10 and 11 of paper 09."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, mse_loss
from torch.optim import Adam
from torch.testing import assert_close

from stylemodels.propagation import (
    PropagationNetwork,
    guide_of,
    normalised,
    propagate,
    scan,
)
from tests.stylemodels.toy import photos


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def signed_gates(*shape: int, seed: int = 1) -> Tensor:
    """(N, 4, 3, C, H, W), of either sign."""
    return normalised(2 * seeded(*shape, seed=seed), 2)


def naive(x: Tensor, gates: Tensor) -> Tensor:
    """The recurrence of one channel, pixel by pixel. x: (H, W), gates: (4, 3, H, W) -> (4, H, W)."""
    height, width = x.shape
    result = torch.zeros(4, height, width, dtype=x.dtype)
    # direction -> (step back, and across: where g1's neighbour lies; g3's lies on the other side), as (down, right)
    directions = [((0, -1), (-1, 0)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((1, 0), (0, -1))]
    for direction, (back, across) in enumerate(directions):
        # pixel after pixel in the direction of the scan: all of a column (or row) before the next
        places = sorted(
            product(range(height), range(width)), key=lambda place: -place[0] * back[0] - place[1] * back[1]
        )
        for row, column in places:
            value, left_over = torch.zeros((), dtype=x.dtype), torch.ones((), dtype=x.dtype)
            for gate, side in zip(gates[direction, :, row, column], (1, 0, -1), strict=True):
                y, z = row + back[0] + side * across[0], column + back[1] + side * across[1]
                if 0 <= y < height and 0 <= z < width:
                    value += gate * result[direction, y, z]
                    left_over -= gate
            result[direction, row, column] = value + left_over * x[row, column]
    return result


def test_check_1_the_network_has_the_published_number_of_parameters():
    network = PropagationNetwork()
    parts = {
        "mask_conv": network.mask_conv,
        "encoder": torch.nn.ModuleList(
            [network.guidance.e1, network.guidance.e2, network.guidance.e3, network.guidance.e4]
        ),
        "guidance": network.guidance,
        "post": network.post,
        "all": network,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    guidance = 388_416 + 383_712
    assert counts == {"mask_conv": 896, "encoder": 388_416, "guidance": guidance, "post": 867, "all": 773_891}


def test_check_10_the_scan_equals_a_double_loop_in_all_four_directions():
    x, gates = seeded(2, 3, 5, 7), signed_gates(2, 4, 3, 3, 5, 7)
    result = propagate(x, gates)
    assert result.shape == (4, 2, 3, 5, 7)
    for n in range(2):
        for c in range(3):
            assert_close(result[:, n, c], naive(x[n, c], gates[n, :, :, c]), rtol=0, atol=1e-12)
    single = propagate(x.float(), gates.float())
    assert_close(single, result.float(), rtol=0, atol=1e-6)


def test_check_10_without_gates_nothing_moves():
    x = seeded(1, 2, 6, 4)
    assert torch.equal(propagate(x, torch.zeros(1, 4, 3, 2, 6, 4, dtype=x.dtype)), x.expand(4, 1, 2, 6, 4))


def test_check_10_constant_pictures_are_preserved():
    x = torch.full((1, 2, 6, 9), 0.3, dtype=torch.float64)
    assert_close(propagate(x, signed_gates(1, 4, 3, 2, 6, 9)), x.expand(4, 1, 2, 6, 9), rtol=0, atol=1e-12)


def test_check_10_gates_that_are_not_negative_keep_the_input_s_range():
    x = seeded(1, 2, 12, 9)
    result = propagate(x, signed_gates(1, 4, 3, 2, 12, 9).abs())
    assert x.min() <= result.min()
    assert result.max() <= x.max()


def test_check_10_the_gradient_is_that_of_the_recurrence():
    x, gates = seeded(4, 2, 3).requires_grad_(), normalised(2 * seeded(3, 4, 2, 3, seed=1), 0).requires_grad_()
    assert torch.autograd.gradcheck(scan, (x, gates))


def test_check_10_normalised_gates_sum_to_one_at_most_and_small_ones_stay():
    raw = 0.5 * seeded(1, 4, 3, 2, 5, 5)
    raw[:, 0, :, 0, 0] = 0
    gates, sums = normalised(raw, 2), raw.abs().sum(2, keepdim=True)
    assert gates.abs().sum(2).max() <= 1 + 1e-12
    assert (sums > 1).any()
    assert torch.equal(gates, torch.where(sums > 1, raw / sums, raw))


def test_the_recurrence_stays_in_float32_under_autocast():
    network = PropagationNetwork()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = network.mask_conv(photos(1, 16))
        assert x.dtype == torch.bfloat16
        assert propagate(x, torch.zeros(1, 4, 3, 32, 16, 16)).dtype == torch.float32


def test_drawing_a_few_channels_at_a_time_gives_what_training_sees():
    torch.manual_seed(0)
    network, pictures, guide = PropagationNetwork(), photos(2, 24, seed=1), photos(2, 24)
    with torch.no_grad():
        drawn = network(pictures, guide)
    assert_close(drawn, network(pictures, guide), rtol=0, atol=1e-5)


def test_sides_that_cannot_be_halved_three_times_are_refused():
    with pytest.raises(ValueError, match="multiples of 8 px, not 24 x 20"):
        PropagationNetwork()(photos(1, 24)[..., :20], photos(1, 24)[..., :20])


def test_the_whitened_guide_is_the_root_of_the_inverse_of_covariance_plus_identity():
    photo = photos(2, 20).double()
    guide = guide_of(photo, "whitened")
    for picture, got in zip(photo, guide, strict=True):
        flat = picture.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        inverse = torch.linalg.inv(torch.cov(flat) + torch.eye(3))
        flat_got = got.flatten(1)
        # whatever the root: guide^T guide = centred^T (cov + 1)^-1 centred, and the root is symmetric, positive
        assert_close(flat_got.T @ flat_got, centred.T @ inverse @ centred)
        root = flat_got @ torch.linalg.pinv(centred)
        assert_close(root, root.T)
        assert (torch.linalg.eigvalsh(root) > 0).all()
        assert_close(flat_got.mean(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert guide_of(photo, "plain") is photo


def undoing_mosaic(*, size: int, batch: int, steps: int) -> tuple[list[float], list[float]]:
    """Trains on pictures averaged over 4 x 4 blocks, the originals being the guide.

    Returns the filter's mean squared error at every step, and that of what it was given.
    """
    torch.manual_seed(0)
    network = PropagationNetwork()
    adam = Adam(network.parameters(), lr=1e-3)
    losses, distortions = [], []
    for step in range(steps):
        original = photos(batch, size, seed=step)
        distorted = interpolate(avg_pool2d(original, 4), scale_factor=4)
        loss = mse_loss(network(distorted, guide_of(original, "plain")), original)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        distortions.append(mse_loss(distorted, original).item())
    return losses, distortions


def test_check_11_in_short_the_filter_learns_to_undo_a_mosaic():
    losses, _ = undoing_mosaic(size=32, batch=2, steps=12)
    assert torch.tensor(losses).isfinite().all()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_check_11_the_filter_gets_closer_to_the_photo_than_what_it_was_given():
    losses, distortions = undoing_mosaic(size=64, batch=8, steps=320)
    assert losses[100] < 0.05 * losses[0]
    assert sum(losses[-20:]) < sum(distortions[-20:])
