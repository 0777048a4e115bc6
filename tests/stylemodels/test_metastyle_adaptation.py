"""MetaStyle, checks 8 to 10: what a learned start is good for, and what an adaptation makes of it."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

from stylemodels.blocks import norm_parameters
from stylemodels.features import gram
from stylemodels.method import Base
from stylemodels.methods.metastyle import squared, total
from stylemodels.train import Run
from tests.stylemodels.toy import advance, base_of, in_use, paintings, photos, same, small_run, small_task

# --- 8, 9 ------------------------------------------------------------------------------------------------------------


def learned_start(seed: int, steps: int) -> tuple[Base, list[dict[str, float]]]:
    """theta after a toy meta-training, and its terms."""
    run = small_run("metastyle/train", seed=seed, steps=steps, lr=1e-3)
    terms = advance(run, steps)
    return base_of(run.task, "metastyle/train"), terms


def loss_after_ten_steps(style: int, base: Base | None, seed: int, **settings: Any) -> float:
    """The loss on held-out photos after ten Adam steps towards an unseen style."""
    task = small_task("metastyle/adapt", seed=seed, base=base, steps=10, **settings)
    task.given = type(task.given)(task.needs, style_image=paintings(1, 32, seed=5000 + style))
    run = Run(task, seed=seed)
    advance(run, 10)
    with torch.no_grad():
        return total(task({"content": photos(4, 32, seed=7000)})).item()


def gain_of_the_start(base: Base, seed: int, styles: int, **settings: Any) -> float:
    learned = fmean(loss_after_ten_steps(style, base, seed, **settings) for style in range(styles))
    return learned / fmean(loss_after_ten_steps(style, None, seed, **settings) for style in range(styles))


def test_check_8_a_short_meta_training_lowers_the_loss_after_the_inner_step():
    _, terms = learned_start(seed=0, steps=8)
    assert terms[-1]["total_loss"] < terms[0]["total_loss"]
    assert fmean(step["inner_gain"] for step in terms) > 0.001


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_check_8_ten_steps_from_theta_lead_nearer_to_unseen_styles_than_from_random_weights(seed: int):
    base, terms = learned_start(seed, steps=80)
    assert fmean(step["inner_gain"] for step in terms) > 0
    assert gain_of_the_start(base, seed, styles=6) < 0.9
    assert gain_of_the_start(base, seed, styles=6, only_in=True, lr=1e-2) < 0.85


@pytest.mark.parametrize("only_in", [False, True])
def test_check_9_adaptation_moves_what_it_may(only_in: bool):
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, only_in=only_in, steps=2)
    advance(run, 2)
    start = base.part("network")
    norms = norm_parameters(run.task.network)
    for name, value in run.task.network.state_dict().items():
        if name in norms or not only_in:
            assert not torch.equal(value, start[name]) or not in_use(name), name
        else:
            assert torch.equal(value, start[name]), name


def test_check_9_no_steps_give_theta_itself():
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, steps=0)
    assert run.total_steps == 0
    assert same(run.task.network.state_dict(), base.part("network"))
    assert not any(name.startswith("initial.") for name in run.task.model_tensors()), "theta is not stored twice"


def gram_distance_left(style_seed: int, steps: int) -> float:
    """Summed Gram distance of fixed photos' pictures to the style after so many steps, divided by that before."""
    task = small_task("metastyle/adapt", steps=steps, style_weight=300.0, lr=3e-3)
    style = paintings(1, 48, seed=style_seed)
    task.given = type(task.given)(task.needs, style_image=style)

    def distance() -> float:
        with torch.no_grad():
            own = task.encoder(task.network(photos(4, 32, seed=7000)), task.loss.style_taps)
            its = task.encoder(squared(style, 32, "squash"), task.loss.style_taps)
        return sum(float(((gram(own[tap]) - gram(its[tap])) ** 2).sum()) for tap in own)

    before = distance()
    advance(Run(task, seed=0), steps)
    return distance() / before


def test_check_9_thirty_steps_bring_the_gram_matrices_near_the_style_s():
    assert fmean(gram_distance_left(style, steps=30) for style in (1, 2, 3)) < 0.6


# --- 10: pictures of blended and mixed models are in test_stylize.py -------------------------------------------------


def test_check_10_a_style_of_instance_norms_is_stored_as_theirs_alone():
    base, _ = learned_start(seed=0, steps=1)
    run = small_run("metastyle/adapt", base=base, only_in=True, steps=2)
    advance(run, 2)
    stored = {name for name in run.task.model_tensors() if name.startswith("initial.")}
    assert stored == {f"initial.{name}" for name in norm_parameters(run.task.network)}

    other = small_task("metastyle/adapt", base=None, seed=3)
    other.load_model_tensors(run.task.model_tensors())
    assert same(other.initial.state_dict(), base.part("network"))
    assert same(other.network.state_dict(), run.task.network.state_dict())
