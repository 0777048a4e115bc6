"""Solvers that were trained for a moment, once per test run, and how well they do."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stylemodels.method import Style, Task
from stylemodels.methods.solver import StylizeControls, Train
from tests.stylemodels.toy import advance, batch_of, paintings, photos, small_run, small_task

CONTROLS = StylizeControls()


class Trained(NamedTuple):
    task: Train
    terms: list[dict[str, float]]
    ratios: list[float]  # of each step, but the first: the style energy of its pictures to that of their contents


def solver(**settings: object) -> Train:
    task = small_task("solver/train", **settings)
    assert isinstance(task, Train)
    return task


def lively(task: Train) -> Train:
    """With random numbers where a fresh network has zeros."""
    torch.manual_seed(1)
    for parameter in task.solver.parameters():
        if parameter.count_nonzero() == 0:
            nn.init.normal_(parameter, std=0.1)
    return task.eval()


@cache
def drawing() -> Train:
    """A lively task; not to be changed."""
    return lively(solver())


@torch.no_grad()
def style_energy(task: Train, picture: Tensor, style: Tensor) -> float:
    """L_s of pictures to the styles at the same places."""
    own = task.features(picture, task.content_taps)
    seen = task.features(picture, task.kappa.taps)
    return float(task.energies(seen, own, task.grams(style))["style_loss"])


@cache
def trained(steps: int, side: int, **settings: object) -> Trained:
    """On other toy pictures at every step, with one unrolled step; not to be changed."""
    run = small_run(
        "solver/train",
        encoder="small-narrow",
        n_steps=1,
        widths=(16, 24, 32, 32),
        lr=3e-3,
        lr_final=3e-4,
        content_size=side,
        style_size=side,
        load_size=side,
        steps=steps,
        **settings,
    )
    task = run.task
    assert isinstance(task, Train)
    terms = advance(run, 1)
    ratios = []
    for step in range(1, steps):
        batch = batch_of(run.streams(), step)
        before = style_energy(task, batch["content"], task.styles_of(batch))
        terms += advance(run, 1)
        ratios.append(terms[-1]["style_loss"] / before)
    return Trained(task.eval(), terms, ratios)


def drawn(task: Task, content: Tensor, *styles: Style, controls: StylizeControls = CONTROLS) -> Tensor:
    image = task.stylize(content, styles, controls).image
    assert image is not None
    return image


def mixing_sweep(task: Train, pairs: int, side: int) -> list[tuple[float, float]]:
    """L_s to a first and to a second style at shares 1, 3/4, ... 0 of the first, means over new pictures."""
    energies = torch.zeros(5, 2)
    for pair in range(pairs):
        content = photos(1, side, seed=9000 + pair)
        both = paintings(2, side, seed=9100 + pair).split(1)
        for place in range(5):
            shares = (1 - place / 4, place / 4)
            picture = drawn(task, content, *(Style(s, w) for s, w in zip(both, shares, strict=True)))
            energies[place] += torch.tensor([style_energy(task, picture, style) for style in both]) / pairs
    return [(first, second) for first, second in energies.tolist()]
