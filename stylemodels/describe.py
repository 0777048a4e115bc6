"""What the library can do, as JSON: how everything that does not import torch learns of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stylemodels.encoders import encoders_description
from stylemodels.export import parameter_counts
from stylemodels.method import Given, Method, Task
from stylemodels.methods import all_methods
from stylemodels.options import controls_schema
from stylemodels.settings import json_schema
from stylemodels.stylize import outline


def describe() -> dict[str, Any]:
    """Code digest, encoders, and every method's tasks with their JSON Schemas."""
    return {
        "code": library_digest(),
        "encoders": encoders_description(),
        "methods": [describe_method(method) for method in all_methods().values()],
    }


def describe_method(method: Method) -> dict[str, Any]:
    tasks = {name: describe_task(task_class) for name, task_class in method.tasks.items()}
    return {"method": method.slug, "title": method.title, "paper": method.paper, "tasks": tasks}


def describe_task(task_class: type[Task]) -> dict[str, Any]:
    """What a job of this task needs and can be told; counts and phases are those of the default settings."""
    needs = task_class.needs
    task = on_meta_device(task_class)
    return {
        "config": json_schema(task_class.Config),
        "datasets": dict(needs.datasets),
        "min_classes": needs.min_classes,
        "min_per_class": needs.min_per_class,
        "base_model": needs.base_model,
        "base_model_required": needs.base_model is not None and needs.base_model_required,
        "style_image": needs.style_image,
        "parameters": parameter_counts(task),
        "controls": controls_schema(task_class),
        "trains": task_class.trains,
        "strength": task_class.strength,
        "draws": task_class.draws,
        "styles": list(task_class.styles),
        "masks": task_class.masks,
        "regions": task_class.regions,
        "init_image": task_class.takes_init,
        "multiple": task_class.multiple,
        "shared_out": task_class.shared_out,
        "stretches": [asdict(stretch) for stretch in task_class.stretches],
        "phases": [{"name": phase.name, "steps": phase.steps} for phase in task.phases()],
    }


def on_meta_device(task_class: type[Task]) -> Task:
    """A task at default settings without memory behind its tensors."""
    config = task_class.Config()
    encoder = outline(config.encoder) if hasattr(config, "encoder") else None
    with torch.device("meta"):
        return task_class(config, Given(task_class.needs, encoder=encoder))


def library_digest() -> str:
    """sha256 over the library's Python files, names and contents."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
