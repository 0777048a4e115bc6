"""Every task at its published widths with random weights: how fast it is does not depend on their values."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.cost import some_classes
from stylemodels.encoders import Encoder, EncoderName
from stylemodels.method import Base, Batch, Picture, Style, Task
from stylemodels.methods import all_methods, find_task
from stylemodels.settings import as_json, build
from stylemodels.stylize import outline
from stylemodels.train import build_task
from stylemodels.vgg import VGG16_DEPTHS, VGG19_DEPTHS, VGG_WIDTHS, Vgg, randomise

STYLE_PX = 512  # of the picture of a task that learns one style
LABELS = 2  # of every labelled data set; no task has fewer classes


def tasks_named(names: Sequence[str]) -> list[str]:
    """Every METHOD/TASK that "METHOD" or "METHOD/TASK" means; all there are without a name.

    Raises ValueError that lists what there is.
    """
    for name in names:
        find_task(name)
    every = [f"{method.slug}/{task}" for method in all_methods().values() for task in method.tasks]
    return [task for task in every if not names or task in names or task.partition("/")[0] in names]


def task_class_of(name: str) -> type[Task]:
    method, task = find_task(name)
    return method.tasks[task]


def built(name: str, settings: Mapping[str, Any]) -> Task:
    """The task at its published sizes, but for those `settings` that it has."""
    task_class = task_class_of(name)
    own = {field.name for field in fields(task_class.Config)}
    wanted = {key: value for key, value in settings.items() if key in own}
    needs = task_class.needs
    base = base_of(needs.base_model) if needs.base_model and needs.base_model_required else None
    config: Any = build(task_class.Config, wanted, None if base is None else base.config)
    return build_task(
        task_class,
        config,
        seed=0,
        encoder=full_size(config.encoder) if hasattr(config, "encoder") else None,
        base=base,
        style_image=photos(1, STYLE_PX) if needs.style_image else None,
        classes=some_classes(needs, config),
    )


def base_of(name: str) -> Base:
    task = built(name, {})
    method, _, task_name = name.partition("/")
    return Base(method, task_name, as_json(task.config), task.model_tensors())


def full_size(name: EncoderName) -> Encoder:
    """An encoder of the published widths with random weights."""
    depths = VGG16_DEPTHS if name == "vgg16" else VGG19_DEPTHS
    network = Vgg(depths, VGG_WIDTHS, padding="zero" if name in ("vgg16", "vgg19") else "reflect", pooling="max")
    randomise(network)
    return Encoder(name, outline(name).channels, network)


def finished(name: str, settings: Mapping[str, Any]) -> Task:
    """`built`, as a finished model draws."""
    task = built(name, settings).eval().requires_grad_(False)
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task


def drawing(task: Task, size: int, controls: Mapping[str, Any]) -> Callable[[], Picture]:
    """What draws a square picture in one style, or in the model's own."""
    content, style = photos(1, size), photos(1, size)
    styles = [Style(style)] if task.styles[1] else []
    instructions: Any = build(task.Controls, controls)
    return lambda: task.stylize(content, styles, instructions)


def pictures_of(task: Task) -> Batch:
    """Pictures for the next step; labels take turns."""
    batch: dict[str, Tensor] = {}
    for name, stream in task.streams().items():
        batch[name] = photos(stream.count, stream.size)
        if task.needs.datasets[stream.dataset] == "labelled":
            batch[f"{name}_label"] = torch.arange(stream.count) // stream.per_class % LABELS
    return batch


def photos(count: int, size: int) -> Tensor:
    """Blurred noise under a little fine noise, (count, 3, size, size): it has regions and edges, as photos have."""
    coarse = interpolate(torch.rand(count, 3, 8, 8), size=(size, size), mode="bicubic").clamp(0, 1)
    return 0.95 * coarse + 0.05 * torch.rand(count, 3, size, size)


def timed(work: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at


def from_child(module: str, asked: Sequence[Any]) -> Any:
    """What `python -m MODULE --child ASKED` prints as its last line, both JSON: measured in a process of its own."""
    command = [sys.executable, "-m", module, "--child", json.dumps(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
