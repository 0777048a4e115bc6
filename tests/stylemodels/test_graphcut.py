"""Graph cuts against brute force over all labellings; checks 1 to 3 of Multimodal Style Transfer."""

from __future__ import annotations

from itertools import pairwise as neighbours_of
from itertools import product

import numpy as np
import pytest

from stylemodels.graphcut import (
    Floats,
    Integers,
    Neighbours,
    alpha_expansion,
    chain,
    energy,
    expanded,
    grid,
    linear,
    potts,
)

EVERY = {labels: np.array(list(product(range(labels), repeat=9))) for labels in (2, 3)}
ROUNDING = 1e-6  # integer capacities on a grid of nine


def noise(positions: int, labels: int, seed: int) -> Floats:
    return np.random.default_rng(seed).random((positions, labels))


def written_out(data: Floats, labels: Integers, height: int, width: int, v: Floats) -> float:
    """E of the definition, position by position, over a grid."""
    total = 0.0
    for y, x in product(range(height), range(width)):
        own = labels[y * width + x]
        total += data[y * width + x, own]
        if x + 1 < width:
            total += v[own, labels[y * width + x + 1]]
        if y + 1 < height:
            total += v[own, labels[(y + 1) * width + x]]
    return total


def least(data: Floats, v: Floats) -> float:
    """The smallest energy of all labellings of 3 x 3 positions."""
    labels = EVERY[len(v)]
    first, second = grid(3, 3)
    unary = data[np.arange(9), labels].sum(1)
    return float((unary + v[labels[:, first], labels[:, second]].sum(1)).min())


def changes(labels: Integers) -> tuple[int, int]:
    """How often neighbours differ in a label map (h, w), across and down."""
    return int((labels[:, 1:] != labels[:, :-1]).sum()), int((labels[1:] != labels[:-1]).sum())


def test_the_energy_is_that_of_its_definition():
    data, v = noise(20, 3, seed=0), linear(3, 0.3)
    labels = np.random.default_rng(1).integers(0, 3, 20)
    assert energy(data, labels, grid(4, 5), v) == pytest.approx(written_out(data, labels, 4, 5, v), abs=1e-12)


def test_a_grid_has_every_pair_once_and_a_chain_goes_on_at_the_ends_of_rows():
    assert sorted(zip(*grid(2, 3), strict=True)) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    assert list(zip(*chain(4), strict=True)) == [(0, 1), (1, 2), (2, 3)]
    assert potts(3, 0.5).tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    assert linear(3, 0.5).tolist() == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]


@pytest.mark.parametrize("weight", [0.05, 0.1, 0.5])
def test_check_1_with_two_labels_the_cut_is_the_minimum(weight: float):
    """Check 1: over all 2^9 labellings of 3 x 3 positions, always."""
    for seed in range(60):
        data, v = noise(9, 2, seed), potts(2, weight)
        assert alpha_expansion(data, grid(3, 3), v).energies[-1] == pytest.approx(least(data, v), abs=ROUNDING)


@pytest.mark.parametrize("weight", [0.1, 0.25])
def test_check_1_with_three_labels_it_is_the_minimum_nearly_always_and_never_far_off(weight: float):
    """Check 1: in at least 90 % of the grids, in the others by a tenth at most; the theory promises a factor of 2."""
    ratios = []
    for seed in range(60):
        data, v = noise(9, 3, seed), potts(3, weight)
        ratios.append(alpha_expansion(data, grid(3, 3), v).energies[-1] / least(data, v))
    assert min(ratios) > 1 - ROUNDING
    assert max(ratios) <= 1.1
    assert np.mean(np.array(ratios) < 1 + ROUNDING) >= 0.9


@pytest.mark.parametrize("distance", [potts, linear])
def test_a_single_expansion_is_the_best_of_all(distance):
    """Check 1: against brute force over who takes the label, also where V is no Potts model."""
    takes = EVERY[2].astype(bool)
    for seed in range(5):
        data, v, start = noise(9, 3, seed), distance(3, 0.2), np.random.default_rng(seed).integers(0, 3, 9)
        for label in range(3):
            best = min(energy(data, np.where(who, label, start), grid(3, 3), v) for who in takes)
            found = energy(data, expanded(data, start, grid(3, 3), v, label), grid(3, 3), v)
            assert found == pytest.approx(best, abs=ROUNDING)


def test_check_2_without_smoothness_everyone_has_his_own_best():
    """Check 2: lambda 0."""
    data = noise(48, 4, seed=3)
    found = alpha_expansion(data, grid(6, 8), potts(4, 0.0))
    assert np.array_equal(found.labels, data.argmin(1))
    assert len(found.energies) == 1


def test_check_2_a_huge_weight_leaves_one_label_that_of_the_least_sum():
    """Check 2: lambda as large as the number of positions."""
    for seed in range(5):
        data = noise(48, 4, seed)
        found = alpha_expansion(data, grid(6, 8), potts(4, 48.0))
        assert set(found.labels.tolist()) == {data.sum(0).argmin()}


@pytest.mark.parametrize("distance", [potts, linear])
def test_check_2_the_energy_never_rises_and_no_expansion_is_left_that_would_lower_it(distance):
    """Check 2: cycle by cycle, from the best of each position alone."""
    for seed in range(5):
        data, neighbours, v = noise(400, 5, seed), grid(20, 20), distance(5, 0.1)
        found = alpha_expansion(data, neighbours, v)
        assert found.energies[0] == pytest.approx(energy(data, data.argmin(1), neighbours, v))
        assert all(later < earlier for earlier, later in neighbours_of(found.energies))
        assert found.energies[-1] == pytest.approx(energy(data, found.labels, neighbours, v))
        moves = [expanded(data, found.labels, neighbours, v, label) for label in range(5)]
        assert min(energy(data, moved, neighbours, v) for moved in moves) > found.energies[-1] - 1e-4


def test_cycles_can_be_limited():
    data, neighbours, v = noise(400, 5, seed=1), grid(20, 20), potts(5, 0.3)
    whole = alpha_expansion(data, neighbours, v)
    once = alpha_expansion(data, neighbours, v, max_cycles=1)
    assert len(whole.energies) > 2
    assert once.energies == whole.energies[:2]


def cuts(neighbours: Neighbours, distance, seed: int) -> tuple[int, int]:
    """Changes across and down that are left of noise over blocks, 32 x 32, three labels."""
    random = np.random.default_rng(seed)
    blocks = np.kron(random.random((4, 4, 3)), np.ones((8, 8, 1)))
    data = (blocks + random.random((32, 32, 3))).reshape(1024, 3)
    return changes(alpha_expansion(data, neighbours, distance(3, 0.3)).labels.reshape(32, 32))


def test_check_3_a_grid_is_smoothed_both_ways_and_the_published_chain_only_across():
    """Check 3: the authors' code has the positions in one row, so what lies above and below does not count."""
    both = np.array([cuts(grid(32, 32), potts, seed) for seed in range(6)])
    row = np.array([cuts(chain(1024), linear, seed) for seed in range(6)])
    across, down = both.T
    assert ((down < 1.6 * across + 10) & (across < 1.6 * down + 10)).all()
    across, down = row.T
    assert (down > 1.6 * across).all()
    assert row[:, 1].sum() > 2 * both[:, 1].sum()


def test_check_3_rows_that_are_constant_but_for_noise_lose_as_much_of_it_both_ways():
    """Check 3: costs constant along rows, with noise."""
    random = np.random.default_rng(0)
    data = (0.3 * random.random((40, 1, 3)) + random.random((40, 40, 3))).reshape(1600, 3)
    before = changes(data.argmin(1).reshape(40, 40))
    after = changes(alpha_expansion(data, grid(40, 40), potts(3, 0.15)).labels.reshape(40, 40))
    left_across, left_down = after[0] / before[0], after[1] / before[1]
    assert max(left_across, left_down) < 0.8
    assert 0.6 < left_across / left_down < 1.6


def test_equal_costs_everywhere_and_a_single_position_have_an_answer():
    flat = alpha_expansion(np.ones((12, 3)), grid(3, 4), potts(3, 0.1))
    assert set(flat.labels.tolist()) == {0}
    assert alpha_expansion(np.array([[2.0, 1.0]]), grid(1, 1), potts(2, 0.1)).labels.tolist() == [1]
    assert alpha_expansion(np.ones((4, 1)), grid(2, 2), potts(1, 0.1)).energies == (4.0,)


def test_costs_that_are_no_numbers_and_distances_that_are_none_are_refused():
    with pytest.raises(ValueError, match="data: some costs are not finite"):
        alpha_expansion(np.full((4, 2), np.nan), grid(2, 2), potts(2, 0.1))
    squares = np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]])
    for wrong in (squares, np.array([[0.0, 1], [2, 0]]), np.array([[1.0, 1], [1, 0]])):
        with pytest.raises(ValueError, match="pairwise: these are no distances"):
            alpha_expansion(np.ones((4, len(wrong))), grid(2, 2), wrong)
