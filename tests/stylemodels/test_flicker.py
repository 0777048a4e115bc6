"""The stability number, against a formula written out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from stylemodels.flicker import flicker


def noise(count: int, height: int, width: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, 1, 3, height, width, generator=random))


def pan(count: int, height: int, width: int, down: int, right: int) -> list[Tensor]:
    """A window over one large picture, whose content moves by (down, right) from frame to frame."""
    world = noise(1, height + abs(down) * count, width + abs(right) * count, seed=3)[0]
    frames = []
    for t in range(count):
        top = (count - t) * down if down >= 0 else t * -down
        left = (count - t) * right if right >= 0 else t * -right
        frames.append(world[..., top : top + height, left : left + width])
    return frames


def mean_change(frames: list[Tensor]) -> float:
    return float(np.mean([np.abs(b.double().numpy() - a.double().numpy()).mean() for a, b in pairwise(frames)]))


def test_it_is_the_quotient_of_the_mean_changes_also_for_two_sizes():
    outputs, inputs = noise(5, 12, 16, seed=0), noise(5, 24, 32, seed=1)
    outputs = [0.3 * frame for frame in outputs]
    assert flicker(outputs, inputs) == pytest.approx(mean_change(outputs) / mean_change(inputs), rel=1e-12)


def test_a_video_flickers_as_much_as_itself_and_a_still_one_not_at_all():
    frames = noise(4, 8, 8, seed=2)
    assert flicker(frames, frames) == 1
    assert flicker([frames[0]] * 4, frames) == 0


def test_it_takes_frames_one_by_one():
    frames = noise(6, 8, 8, seed=4)
    alive: list[int] = []

    def counted():
        for number, frame in enumerate(frames):
            alive.append(number)
            yield frame

    assert flicker(counted(), iter(frames)) == 1
    assert alive == list(range(6))


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, 3), (1, -2), (-3, -1)])
def test_a_style_that_sticks_to_a_pan_does_not_flicker_along_it(down: int, right: int):
    inputs = pan(5, 20, 24, down, right)
    outputs = [1 - frame**2 for frame in inputs]
    assert flicker(outputs, inputs, motion=(down, right)) == 0
    assert flicker(outputs, inputs, motion=(-down, -right)) > 0.5
    assert flicker(outputs, inputs) > 0.5


def test_along_a_motion_only_what_both_pictures_show_is_compared():
    outputs, inputs = noise(3, 10, 12, seed=5), noise(3, 10, 12, seed=6)
    total = 0.0
    for before, now in pairwise(outputs):
        values = [
            abs(float(now[0, c, y, x].double() - before[0, c, y - 2, x + 1].double()))
            for c in range(3)
            for y in range(2, 10)
            for x in range(11)
        ]
        total += sum(values) / len(values) / 2
    assert flicker(outputs, inputs, motion=(2, -1)) == pytest.approx(total / mean_change(inputs), rel=1e-12)


@pytest.mark.parametrize(
    ("outputs", "inputs", "motion", "message"),
    [
        (1, 1, None, "two frames at least"),
        (0, 0, None, "two frames at least"),
        (3, 4, None, "as many as inputs"),
        (4, 3, None, "as many as inputs"),
        (3, 3, (8, 0), "leaves nothing"),
    ],
)
def test_what_cannot_be_compared_is_refused(outputs: int, inputs: int, motion: tuple[int, int] | None, message: str):
    with pytest.raises(ValueError, match=message):
        flicker(noise(outputs, 8, 8, seed=0), noise(inputs, 8, 8, seed=1), motion=motion)


def test_inputs_that_do_not_move_are_refused():
    frames = noise(3, 8, 8, seed=0)
    with pytest.raises(ValueError, match="all frames are the same"):
        flicker(frames, [frames[0]] * 3)
