"""Finished models at work: any size, any of the model's controls, mixtures of adapted models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from stylemodels.encoders import Encoder, EncoderName, encoders_description, load_encoder
from stylemodels.export import Description, read_model
from stylemodels.method import Given, Style, Task
from stylemodels.methods import find_task
from stylemodels.settings import build
from stylemodels.weights import Weights

MIN_SIDE_PX = 16


class Model:
    """A finished model, ready to draw."""

    def __init__(self, task: Task, description: Description) -> None:
        self.task = task
        self.description = description

    def stylize(
        self, content: Tensor, styles: Sequence[Style] = (), controls: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Draw one picture.

        content: (1, 3, H, W), RGB in [0, 1], sides from 16 px. styles: as many as the method takes; their weights are
        made to sum to 1. controls: the model's own, by name; what is left out has its default.

        Returns (1, 3, H, W) in [0, 1], as large as the content.
        Raises ValueError for a picture that is too small, the wrong number of styles, and bad controls.
        """
        height, width = content.shape[-2:]
        if content.ndim != 4 or content.shape[:2] != (1, 3):
            raise ValueError(f"content: a picture has the shape (1, 3, H, W), not {tuple(content.shape)}")
        if min(height, width) < MIN_SIDE_PX:
            raise ValueError(f"content: {width} x {height} px were given, sides must be at least {MIN_SIDE_PX} px")
        told: Any = build(self.task.Controls, controls or {})
        chosen = self._checked_styles(styles)
        multiple = self.task.multiple
        padded = pad(content, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        picture = self.task.stylize(padded, chosen, told)
        if picture.image is None:
            raise ValueError(f"a model of {self.name} draws no pictures")
        return picture.image[..., :height, :width].float().clamp(0, 1)

    @property
    def name(self) -> str:
        """Method and task: "metastyle/adapt"."""
        return f"{self.description.method}/{self.description.task}"

    def _checked_styles(self, styles: Sequence[Style]) -> list[Style]:
        fewest, most = self.task.styles
        if not fewest <= len(styles) <= most:
            allowed = "none: the model is the style" if most == 0 else f"{fewest} to {most}"
            raise ValueError(f"styles: {len(styles)} pictures were given, a model of {self.name} takes {allowed}")
        for style in styles:
            if style.mask is not None and not self.task.masks:
                raise ValueError(f"styles: a mask was given, but a model of {self.name} takes none")
        weights = normalised([style.weight for style in styles])
        return [replace(style, weight=weight) for style, weight in zip(styles, weights, strict=True)]


class NoWeights(nn.Module):
    """Stands where an encoder's network would be, in models that never ask it for anything."""

    def forward(self, *_: Any) -> dict[str, Tensor]:
        raise ValueError("this model was rebuilt without its encoder's weights")


def outline(name: EncoderName) -> Encoder:
    """An encoder's name, taps and channels without its weights; it cannot compute."""
    return Encoder(name, encoders_description()[name]["taps"], NoWeights())


def load_model(folder: Path, weights: Weights | None = None) -> Model:
    """A model from the folder that `export.write_model` wrote.

    weights: where the encoder's weight files lie, if the method still needs one. Raises ValueError when the encoder's
    weights are missing, `checkpoint.Damaged` when a file of the model is.
    """
    description, tensors = read_model(folder)
    method, task_name = find_task(f"{description.method}/{description.task}")
    task_class = method.tasks[task_name]
    config: Any = build(task_class.Config, description.config)
    encoder = None
    if name := getattr(config, "encoder", None):
        encoder = load_encoder(name, weights) if task_class.stylize_encodes else outline(name)
    task = task_class(config, Given(task_class.needs, encoder=encoder))
    task.load_model_tensors(tensors)
    task.eval().requires_grad_(False)
    return Model(task, description)


def interpolate(models: Sequence[tuple[Model, float]]) -> Model:
    """One model between several that were adapted from the same start: the convex combination of their weights.

    Weights are made to sum to 1. Raises ValueError that names the models when they have different starts.
    Source: Zhang et al. 2019 (arXiv:1812.05233).
    """
    if not models:
        raise ValueError("models: none was given")
    first = models[0][0]
    for position, (model, _) in enumerate(models, start=1):
        start = model.description.facts.get("initial_sha256")
        if start is None:
            raise ValueError(f"model {position} is of {model.name}: only adapted models can be mixed")
        if start != first.description.facts["initial_sha256"]:
            raise ValueError(f"models 1 and {position} were adapted from different starts and cannot be mixed")
    shares = normalised([weight for _, weight in models])
    states = [model.task.state_dict() for model, _ in models]
    mixed = {
        name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }
    task = deepcopy(first.task)
    with torch.no_grad():
        for name, tensor in task.state_dict().items():
            tensor.copy_(torch.as_tensor(mixed[name]))
    return Model(task, first.description)


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum. Raises ValueError for a negative one, or when all are zero."""
    if not weights:
        return []
    total = fsum(weights)
    if min(weights) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"weights: {', '.join(map(str, weights))} were given, they must be at least 0 and not all 0")
    return [weight / total for weight in weights]
