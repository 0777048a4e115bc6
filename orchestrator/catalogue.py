"""The methods, as `python -m stylemodels describe` tells them, and the check of a job's settings against them.

The library runs once in a child process, because torch has no place in the API; what it said is kept on disk under the
digest of its sources, so that a restarted API answers at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.code import code_digest
from orchestrator.scheduling.classes import DEFAULT_CLASSES, PriorityClass, parse_classes
from stylemodels.phases import Stretch, planned
from stylemodels.schema import InvalidConfig, complete_config

DESCRIBE_S = 120  # longest time that the child may take, seconds

CLASSES = parse_classes(DEFAULT_CLASSES)

__all__ = ["Catalogue", "InvalidConfig", "TaskInfo", "read_catalogue"]


@dataclass(frozen=True)
class TaskInfo:
    """What a job of this task needs and can be told."""

    method: str
    task: str
    config: Mapping[str, Any]  # JSON Schema with defaults
    datasets: Mapping[str, str]  # role -> images | labelled
    min_classes: int  # that a labelled dataset must have
    min_per_class: int  # pictures that each of its classes must have
    base_model: str | None  # "method/task"
    base_model_required: bool
    style_image: bool
    controls: Mapping[str, Any]  # JSON Schema of what a finished model can be told
    draws: bool  # False: a finished model makes no pictures
    styles: tuple[int, int]  # fewest and most style pictures of a stylisation
    strength: str  # which control goes from 0, the content, to 1, the style; empty where none does
    masks: bool  # a mask for each style
    regions: bool  # label maps of content and style
    init_image: bool  # a picture to start from
    shared_out: str | None  # the setting whose number workers divide; None: one worker only
    trains: bool  # False: there is nothing to learn, so no job
    stretches: tuple[Stretch, ...]  # its phases as a function of the settings

    def complete(self, config: Mapping[str, Any], base_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`config` over the base model's over the defaults. Raises InvalidConfig with every bad field."""
        return complete_config(self.config, config, base_config)

    def complete_controls(self, controls: Mapping[str, Any]) -> dict[str, Any]:
        """What a finished model is told, over the defaults. Raises InvalidConfig with every bad field."""
        return complete_config(self.controls, controls)

    def total_steps(self, config: Mapping[str, Any], *, based: bool = False) -> int:
        """Steps over all phases of a job with this complete config. based: it starts from a base model."""
        return sum(steps for _, steps in self.phases(config, based=based))

    def phases(self, config: Mapping[str, Any], *, based: bool = False) -> list[tuple[str, int]]:
        """Name and steps of every phase, in order."""
        return planned(self.stretches, config, based=based)


class Catalogue:
    """Every method, encoder and class of priority that a job can name."""

    def __init__(self, described: Mapping[str, Any], classes: Mapping[str, PriorityClass]) -> None:
        self.classes = classes
        self.methods: dict[str, dict[str, Any]] = {method["method"]: method for method in described["methods"]}
        self._encoders: Mapping[str, Mapping[str, Any]] = described["encoders"]
        self._tasks = {
            (slug, name): _task(slug, name, task)
            for slug, method in self.methods.items()
            for name, task in method["tasks"].items()
        }

    def task(self, method: str, task: str) -> TaskInfo | None:
        """None when there is no such method or task."""
        return self._tasks.get((method, task))

    def weights_of(self, encoder: str) -> str | None:
        """The weight file that an encoder needs; None for those that come with the package."""
        needed: str | None = self._encoders.get(encoder, {}).get("needs_weights")
        return needed

    def encoders(self) -> list[str]:
        return list(self._encoders)

    def free_encoders(self) -> list[str]:
        """Encoders that need no weights."""
        return [name for name, encoder in self._encoders.items() if encoder["needs_weights"] is None]

    def roles(self) -> set[str]:
        """Under which names jobs take datasets."""
        return {"style", *(role for task in self._tasks.values() for role in task.datasets)}

    def architecture(self, method: str) -> set[str]:
        """Settings of a method that decide the shapes of its networks, so a checkpoint cannot outlive their change."""
        tasks = [task for (slug, _), task in self._tasks.items() if slug == method]
        named = {name for task in tasks for name, prop in task.config["properties"].items() if "x-from-base" in prop}
        return named | {"encoder", "width"}


def read_catalogue(cache_dir: Path, classes: Mapping[str, PriorityClass] = CLASSES) -> Catalogue:
    """Ask the style library, or the answer kept in `cache_dir` if it is of the same sources.

    classes: as the settings declare them.

    Raises RuntimeError with the library's own words when it cannot describe itself.
    """
    kept = cache_dir / f"methods-{code_digest()[:16]}.json"
    if not kept.exists():
        _write(kept, _describe())
    return Catalogue(json.loads(kept.read_text()), classes)


def _describe() -> str:
    command = [sys.executable, "-m", "stylemodels", "describe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DESCRIBE_S, check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)} failed: {error.stderr[-2000:]}") from error
    return done.stdout


def _write(path: Path, text: str) -> None:
    """Whole or not at all: several replicas may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(part, path)


def _task(method: str, name: str, described: Mapping[str, Any]) -> TaskInfo:
    fewest, most = described["styles"]
    return TaskInfo(
        method=method,
        task=name,
        config=described["config"],
        datasets=described["datasets"],
        min_classes=described["min_classes"],
        min_per_class=described["min_per_class"],
        base_model=described["base_model"],
        base_model_required=described["base_model_required"],
        style_image=described["style_image"],
        controls=described["controls"],
        draws=described["draws"],
        styles=(fewest, most),
        strength=described["strength"],
        masks=described["masks"],
        regions=described["regions"],
        init_image=described["init_image"],
        shared_out=described["shared_out"],
        trains=described["trains"],
        stretches=tuple(Stretch.read(stretch) for stretch in described["stretches"]),
    )
