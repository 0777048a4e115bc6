"""One training on local folders: the same steps, checkpoints and model as a job of the service."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from stylemodels import checkpoint
from stylemodels.collapse import concerns
from stylemodels.data import Batches, FolderSource, repetitions
from stylemodels.encoders import load_encoder
from stylemodels.export import Card, read_base, write_model
from stylemodels.images import load_picture, save_picture
from stylemodels.method import Batch, Stream, Task
from stylemodels.methods import find_task
from stylemodels.settings import as_json, build
from stylemodels.sources import PictureSource, check_classes
from stylemodels.train import Run, build_task, due, preview_due
from stylemodels.weights import Weights


class Progress(Protocol):
    """Who is told how it goes, after every step."""

    def __call__(self, step: int, total_steps: int, terms: Mapping[str, float], steps_per_second: float, /) -> None: ...


class FolderRun:
    """A task, its folders of pictures and its folder of results (`checkpoints/`, `samples/`, `model/`)."""

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any],
        *,
        folders: Mapping[str, Path],
        out: Path | None = None,
        seed: int = 0,
        base: Path | None = None,
        style_image: Path | None = None,
        weights: Weights | None = None,
        device: str = "cpu",
    ) -> None:
        """task: "metastyle/adapt", or "metastyle" for its first. folders: by dataset. base: a model's folder.

        Raises ValueError that says what is missing, unknown or out of range; `checkpoint.Damaged` for a broken base.
        """
        self.method, self.task_name = find_task(task)
        task_class = self.method.tasks[self.task_name]
        if not task_class.trains:
            raise ValueError(f"{task}: there is nothing to train, its model comes with the package: use `stylize`")
        base_model = None if base is None else read_base(base)
        self.config: Any = build(task_class.Config, settings, None if base_model is None else base_model.config)
        self.sources = open_folders(task_class, folders)
        self.out = out or Path(f"{self.method.slug}-{self.task_name}")
        self.seed, self.device = seed, device
        name = getattr(self.config, "encoder", None)
        self.task = build_task(
            task_class,
            self.config,
            seed=seed,
            encoder=None if name is None else load_encoder(name, weights),
            base=base_model,
            style_image=None if style_image is None else load_picture(style_image),
            classes={name: s.classes for name, s in self.sources.items() if s.labels is not None},
            device=device,
        )
        self.run = Run(self.task, seed=seed, device=device)
        self.base_name = "" if base is None else base.name

    @property
    def model_folder(self) -> Path:
        return self.out / "model"

    def train(self, *, resume: bool, say: Progress) -> None:
        """Train to the end and write the model. With `resume` from the newest whole checkpoint, if there is one."""
        self._prepare_out(resume)
        for warning in repetitions(self.run.streams(), self.sources):
            print(warning)
        terms: dict[str, float] = {}
        started_at, first = time.monotonic(), self.run.step
        self._draw_previews_if_due()
        while self.run.step < self.run.total_steps:
            streams = self.run.streams()
            with self._batches(streams) as batches:
                while self.run.step < self.run.total_steps and self.run.streams() == streams:
                    terms = self.run.advance(batches.at(self.run.step)) | self._validation_if_due()
                    speed = (self.run.step - first) / (time.monotonic() - started_at)
                    say(self.run.step, self.run.total_steps, terms, speed)
                    for concern in concerns(terms):
                        print(f"step {self.run.step}: {concern}")
                    self._save_if_due()
                    self._draw_previews_if_due()
        card = Card(seed=self.seed, base_model=self.base_name, losses=terms)
        write_model(self.model_folder, self.task, self.method, self.task_name, card, onnx=self.config.onnx)

    @cached_property
    def _preview_batch(self) -> Batch:
        with self._batches(self.task.preview_streams()) as batches:
            return batches.at(0)

    def _batches(self, streams: Mapping[str, Stream]) -> Batches:
        return Batches(dict(streams), dict(self.sources), seed=self.seed, device=self.device)

    def _prepare_out(self, resume: bool) -> None:
        """Write the settings down; with `resume`, go on where the folder is."""
        self.out.mkdir(parents=True, exist_ok=True)
        written = {"task": f"{self.method.slug}/{self.task_name}", "seed": self.seed, "config": as_json(self.config)}
        path = self.out / "run.json"
        if resume and path.exists() and json.loads(path.read_text()) != written:
            raise ValueError(f"{path}: this folder was trained with other settings; take them, or another --out")
        path.write_text(json.dumps(written, indent=1) + "\n")
        if resume:
            self._restore_newest()

    def _restore_newest(self) -> None:
        for folder in sorted(self.out.glob("checkpoints/step-????????"), reverse=True):
            try:
                self.run.restore(checkpoint.load(folder))
            except checkpoint.Damaged as error:
                print(f"{folder}: passed over, {error}")
            else:
                return

    def _validation_if_due(self) -> dict[str, float]:
        streams = self.task.validation_streams()
        if not streams or not due(self.run.step, self.config.checkpoint_every, self.run.total_steps):
            return {}
        with self._batches(streams) as batches:
            return self.run.evaluate(batches.round())

    def _save_if_due(self) -> None:
        if due(self.run.step, self.config.checkpoint_every, self.run.total_steps):
            checkpoint.save(self.run.snapshot(), self.out / "checkpoints" / f"step-{self.run.step:08}")

    def _draw_previews_if_due(self) -> None:
        if not preview_due(self.config, self.run.step, self.run.total_steps):
            return
        folder = self.out / "samples" / f"step-{self.run.step:08}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in self.run.preview(self._preview_batch):
            save_picture(picture, folder / f"{name}.jpg")


def open_folders(task_class: type[Task], folders: Mapping[str, Path]) -> dict[str, PictureSource]:
    """The task's datasets. Raises ValueError for one that is missing, not needed, or with too few pictures."""
    needed = task_class.needs.datasets
    if missing := [name for name in needed if name not in folders]:
        raise ValueError(f"{missing[0]}: no folder was given; this task trains on {', '.join(needed)}")
    if extra := [name for name in folders if name not in needed]:
        raise ValueError(f"{extra[0]}: this task does not train on it, only on {', '.join(needed)}")
    sources: dict[str, PictureSource] = {
        name: FolderSource(folders[name], labelled=kind == "labelled") for name, kind in needed.items()
    }
    for name, source in sources.items():
        check_classes(name, source, task_class.needs)
    return sources
