"""Published weights of others as models of ours.

Nothing is unpickled beyond tensors (`weights_only`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stylemodels.export import CARD_FILE, Card, Description, write_model
from stylemodels.method import Given, Method, Task, load_exactly
from stylemodels.methods import collaborative_distillation
from stylemodels.settings import build
from stylemodels.stylize import outline

TENSOR_FILES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is known about weights that can be converted."""

    title: str
    method: Method
    task: str
    read: Callable[[Path], Task]
    licence: str


def convert(name: str, folder: Path, out: Path) -> Description:
    """Write the weights in `folder`, which are those called `name` in CONVERSIONS, as a model into `out`.

    Raises ValueError for an unknown name, and for a file that is missing, unreadable or of another shape.
    """
    if name not in CONVERSIONS:
        raise ValueError(f"{name!r} cannot be converted, only {', '.join(CONVERSIONS)}")
    known = CONVERSIONS[name]
    task = known.read(folder)
    description = write_model(out, task, known.method, known.task, Card(name=known.title))
    with (out / CARD_FILE).open("a") as card:
        card.write(f"\n## Licence\n\n{known.licence}\n")
    return description


def convert_collaborative_distillation(folder: Path) -> collaborative_distillation.Distill:
    """The 16x networks for WCT of Wang et al. 2020 (arXiv:2003.08436): 1SE to 5SE and 1SD to 5SD anywhere in `folder`.

    A file is known by the end of its name: `3SD.pth`, `wct_se_16x_3SD.safetensors`. The embeddings Q are left out.
    Raises ValueError that names what is missing, comes twice, cannot be read or is not of the published shape.
    """
    task_class = collaborative_distillation.Distill
    config: Any = build(task_class.Config, {"final_relu": True})
    task = task_class(config, Given(task_class.needs, encoder=outline(config.encoder)))
    del task.encoder  # the teacher's file is not here: the card is to name none
    for stage in config.stages:
        for kind, networks in (("SE", task.encoders), ("SD", task.decoders)):
            fill(networks[str(stage)], published_file(folder, f"{stage}{kind}"))
    return task


def published_file(folder: Path, ending: str) -> Path:
    """The one file of tensors under `folder` whose name ends in `ending` before its suffix."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    pattern = re.compile(rf"(.*[^0-9a-z])?{ending}", re.IGNORECASE)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in TENSOR_FILES and path.is_file()]
    found = [path for path in files if pattern.fullmatch(path.stem)]
    if not found:
        raise ValueError(f"{ending}: there is no file like {ending}.pth or {ending}.safetensors in {folder}")
    if len(found) > 1:
        names = " and ".join(path.relative_to(folder).as_posix() for path in found)
        raise ValueError(f"{ending}: {names} in {folder} could both be it, leave one there")
    return found[0]


def fill(network: nn.Module, path: Path) -> None:
    """Load a network from a published file, less the embeddings. Raises ValueError that names the file."""
    tensors = {name: value for name, value in published_tensors(path).items() if "_aux" not in name}
    try:
        load_exactly(network, tensors, network.state_dict())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: tensor {name!r} has values that are not finite")


def published_tensors(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file: the whole of it, or what it calls "model"."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: there is no state dict in it")
    return state


MIT = """MIT License. Copyright (c) {year_and_holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

CONVERSIONS: Mapping[str, Conversion] = {
    "16x": Conversion(
        title="Collaborative Distillation: the published 16x networks for WCT",
        method=collaborative_distillation.METHOD,
        task="distill",
        read=convert_collaborative_distillation,
        licence=MIT.format(year_and_holder="2020 Huan Wang"),
    )
}
