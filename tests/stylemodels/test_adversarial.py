"""The two sides' losses against their formulas, and the gate against a simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stylemodels.adversarial import Gate, Verdict, accuracy, adversarial_loss, class_terms, discriminator_loss, wins


def verdicts(count: int = 2) -> list[Verdict]:
    random = torch.Generator().manual_seed(0)
    return [
        Verdict(torch.randn(3, 1, 4, 5, generator=random), torch.randn(3, 6, generator=random)) for _ in range(count)
    ]


def sigmoid(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(1 / (1 + np.exp(-logits.double().numpy())))


def test_check_7_the_discriminator_s_loss_is_the_negative_of_equations_8_and_9():
    real, fake = verdicts()
    expected = -(np.log(sigmoid(real.logits)).mean() + np.log(1 - sigmoid(fake.logits)).mean())
    assert float(discriminator_loss("bce", real, fake)) == pytest.approx(expected, rel=1e-5)
    assert float(adversarial_loss("bce", fake, real=True)) == pytest.approx(-np.log(sigmoid(fake.logits)).mean(), 1e-5)


def test_least_squares_pull_real_to_1_and_fake_to_0():
    real, fake = verdicts()
    expected = (real.logits - 1).square().mean() + fake.logits.square().mean()
    assert float(discriminator_loss("lsgan", real, fake)) == pytest.approx(float(expected))


def test_the_accuracy_counts_places_on_the_right_side():
    logits = torch.tensor([-1.0, 0.2, 0.6, 3.0]).view(1, 1, 2, 2)
    verdict = Verdict(logits, None)
    assert float(wins("bce", verdict, real=True)) == 0.75
    assert float(wins("lsgan", verdict, real=True)) == 0.5
    assert float(wins("bce", verdict, real=False)) == 0.25
    assert float(accuracy("bce", verdict, verdict)) == 0.5


def test_classes_are_told_by_cross_entropy_or_not_at_all():
    verdict, labels = verdicts()[0], torch.tensor([5, 0, 3])
    assert verdict.classes is not None
    terms = class_terms("scene", verdict, labels)
    chosen = verdict.classes.softmax(1)[torch.arange(3), labels]
    assert float(terms["scene_loss"]) == pytest.approx(float(-chosen.log().mean()), rel=1e-5)
    assert float(terms["scene_accuracy"]) == float((verdict.classes.argmax(1) == labels).float().mean())
    assert class_terms("scene", verdict._replace(classes=None), labels) == {}


def test_check_8_a_discriminator_that_is_always_right_soon_waits_for_its_opponent():
    gate = Gate(0.8, 0.05)
    gate.count(torch.tensor(0.0))  # the generator won once
    moves = []
    for _ in range(8):
        moves.append(gate.movers())
        gate.count(torch.tensor(1.0))
    assert moves[0] == (True, False)
    assert moves[-1] == (False, True)
    assert moves == sorted(moves, reverse=True), "who waits once waits on"


def test_check_8_below_zero_both_move_each_time():
    gate = Gate(-1.0, 0.05)
    for share in (0.0, 1.0, 0.5):
        assert gate.movers() == (True, True)
        gate.count(torch.tensor(share))


@pytest.mark.parametrize("skill", [0.6, 0.95])
def test_check_8_the_long_run_is_that_of_a_simulated_trace(skill: float):
    """The generator's moves lower the share of wins, the discriminator's raise it."""
    random = np.random.default_rng(0)
    gate, rate, ours, simulated = Gate(0.8, 0.05).double(), float(np.float32(0.8)), 0, 0
    for _ in range(2000):
        noise = 0.1 * random.standard_normal()
        discriminator, generator = gate.movers()
        ours += generator
        gate.count(torch.tensor(np.clip((skill if discriminator else 0.5) + noise, 0, 1)))
        waits = rate >= 0.8
        simulated += waits
        rate = 0.95 * rate + 0.05 * float(np.clip((0.5 if waits else skill) + noise, 0, 1))
    assert ours == simulated
    assert (ours > 300) == (skill > 0.8)
