"""The steps of a task follow from its settings, without torch."""

from __future__ import annotations

from typing import Any

import pytest

from stylemodels.method import Base
from stylemodels.methods import all_methods
from stylemodels.phases import planned
from stylemodels.settings import as_json, build
from tests.stylemodels.test_methods import CLASSES
from tests.stylemodels.toy import base_of, small_task

DISTILL, DECODER, LINEAR = (
    "collaborative-distillation/distill",
    "collaborative-distillation/train-decoder",
    "linear/train",
)


def phases(name: str, based: bool = False, **settings: Any) -> list[tuple[str, int]]:
    task = CLASSES[name]
    return planned(task.stretches, as_json(build(task.Config, settings)), based=based)


def test_stages_take_turns_in_their_order_with_steps_of_their_own():
    assert phases(DISTILL, stages=[3, 1], steps=7) == [
        ("bd3", 7), ("se3", 7), ("sd3", 7), ("bd1", 7), ("se1", 7), ("sd1", 7),
    ]  # fmt: skip
    assert phases(DISTILL, stages=[2, 1], steps=7, bd_steps=[1, 2], sd_steps=[3, 4], collaborator_div=0) == [
        ("se2", 7), ("sd2", 3), ("se1", 7), ("sd1", 4),
    ]  # fmt: skip
    assert phases(DECODER, stages=[4], sd_steps=[9]) == [("sd4", 9)]
    assert phases("wct/train", levels=[5, 1], steps=2) == [("level5", 2), ("level1", 2)]


def test_what_a_base_model_brings_is_not_trained_unless_that_is_asked_for():
    assert phases(LINEAR, steps=5) == [("decoder", 5), ("transform", 5)]
    assert phases(LINEAR, based=True, steps=5) == [("decoder", 0), ("transform", 5)]
    assert phases(LINEAR, based=True, steps=5, decoder_steps=3) == [("decoder", 3), ("transform", 5)]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_task_has_the_phases_that_its_settings_say(name: str):
    task = small_task(name)
    assert [(p.name, p.steps) for p in task.phases()] == planned(task.stretches, as_json(task.config), based=False)


def test_a_task_on_a_base_model_has_them_too():
    base: Base = base_of(small_task("adain/train"), "adain/train")
    needs = CLASSES[LINEAR].needs
    assert needs.base_model is not None
    if needs.base_model != "adain/train":
        base = base_of(small_task(needs.base_model), needs.base_model)
    task = small_task(LINEAR, base=base, decoder_steps=None, steps=6)
    assert sum(p.steps for p in task.phases()) == 6


def test_only_tasks_without_training_have_no_phase():
    for method in all_methods().values():
        for task in method.tasks.values():
            assert bool(task.stretches) == task.trains
