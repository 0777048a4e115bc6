"""Models of the linear transformation that were trained for a moment, once per test run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from stylemodels.export import describe_model
from stylemodels.method import Task
from stylemodels.methods import find_task
from stylemodels.methods.linear import Train, TrainFilter
from stylemodels.stylize import Model
from stylemodels.transformation import Transform
from tests.stylemodels.toy import advance, base_of, batch_of, small_run, small_task

DECODER_STEPS, STEPS = 60, 60
PAIRS = 3  # batches, in turn


class Trained(NamedTuple):
    task: Train
    terms: list[dict[str, float]]  # of the phase `transform`


@cache
def trained() -> Trained:
    """With the random encoder, at r31; not to be changed."""
    run = small_run("linear/train", decoder_steps=DECODER_STEPS, steps=STEPS, content_size=48, style_size=48)
    advance(run, DECODER_STEPS)
    terms = [run.advance(batch_of(run.streams(), step % PAIRS)) for step in range(STEPS)]
    assert isinstance(run.task, Train)
    return Trained(run.task.eval(), terms)


@cache
def with_filter() -> TrainFilter:
    """`trained` with a filter that learned nothing yet; not to be changed."""
    task = small_task("linear/train-filter", base=base_of(trained().task, "linear/train"))
    assert isinstance(task, TrainFilter)
    return task.eval()


def model_of(task: Task, name: str) -> Model:
    method, task_name = find_task(name)
    return Model(task, describe_model(task, method, task_name))


def model() -> Model:
    return model_of(trained().task, "linear/train")


def random_transform(channels: int = 24, matrix_size: int = 8) -> Transform:
    """With matrices of the order of 1: those of PyTorch's own start are nearly 0."""
    torch.manual_seed(0)
    transform = Transform(channels, matrix_size)
    with torch.no_grad():
        for net in (transform.cnet, transform.snet):
            net.fc.bias.normal_()
    return transform
