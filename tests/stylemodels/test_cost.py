"""What is counted on tensors without memory is what a real step does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from torch.utils.flop_counter import FlopCounterMode

from stylemodels.cost import step_costs
from stylemodels.method import Task
from stylemodels.settings import as_json
from tests.stylemodels.test_methods import CLASSES, TASKS
from tests.stylemodels.toy import SMALL, batch_of, small_task


def done_flops(task: Task, phase: str) -> int:
    """Of a second step on real pictures."""
    task.begin(phase, 0)
    batch = batch_of(task.streams())
    task.calibrate(batch)
    task.training_step(batch)
    with FlopCounterMode(display=False) as flops:
        task.training_step(batch)
    return int(flops.get_total_flops())


@pytest.mark.parametrize("name", TASKS)
def test_the_count_of_every_task_is_what_a_real_step_does(name: str):
    needs = CLASSES[name].needs
    base = as_json(small_task(needs.base_model).config) if needs.base_model and needs.base_model_required else None
    counted = {phase["name"]: phase for phase in step_costs(name, SMALL[name], base)}
    real = small_task(name)
    assert list(counted) == [phase.name for phase in real.phases()]
    weights = sum(p.numel() * p.element_size() for p in real.parameters())
    for phase in real.phases():
        assert counted[phase.name]["flops"] == done_flops(real, phase.name)
        assert counted[phase.name]["peak_bytes"] > weights
        assert counted[phase.name]["bytes"] > weights


def test_twice_the_pictures_are_twice_the_arithmetic_and_activations_but_not_the_weights():
    one, two = (step_costs("adain/train", {**SMALL["adain/train"], "batch_size": n})[0] for n in (4, 8))
    assert two["flops"] == 2 * one["flops"]
    assert one["peak_bytes"] < two["peak_bytes"] < 2 * one["peak_bytes"]


def test_published_sizes_are_counted_as_quickly_as_small_ones_and_from_the_command_line():
    asked = {"task": "johnson/train", "config": {"batch_size": 64, "content_size": 1024}}
    command = [sys.executable, "-m", "stylemodels", "cost"]
    told = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    (phase,) = json.loads(told.stdout)
    assert phase["peak_bytes"] > 2**37, "more than a GPU has"
