"""`gates`: how a model weights its channels, as figures and as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from stylemodels import gates
from stylemodels.commands.arguments import add_machine, model_folder, weights
from stylemodels.commands.folders import pictures_under
from stylemodels.images import load_picture, save_picture
from stylemodels.prepare import check_picture, padded, padded_size, size_of
from stylemodels.recalibration import watched
from stylemodels.stylize import load_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Show pictures to a model with gates on its channels (srm) and write what they do: gates.json has a histogram "
        "of every layer and figures of every channel, gates.png a block for each layer, a line for each picture and a "
        "column for each channel, black for a closed gate and white for an open one."
    )
    command.epilog = "example: python -m stylemodels gates srm-train/model --content photos/ --out gates/"
    command.add_argument("model", metavar="DIR", help="a finished model")
    command.add_argument("--content", type=Path, required=True, metavar="DIR", help="folder of pictures")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where gates.json and gates.png go")
    command.add_argument("--pictures", type=int, default=8, metavar="N", help="at most (default: %(default)s)")
    add_machine(command)


@torch.inference_mode()
def run(options: argparse.Namespace) -> int:
    if options.pictures < 1:
        raise ValueError(f"--pictures {options.pictures}: at least 1 is allowed")
    task = load_model(model_folder(options.model), weights(options)).task
    if task.styles[0]:
        raise ValueError(f"{options.model}: has no gates, it takes its style from a picture")
    paths = pictures_under(options.content)[: options.pictures]
    with watched(task) as seen:
        for path in paths:
            image = load_picture(path)
            check_picture(str(path), image)
            task.stylize(padded(image, padded_size(type(task), size_of(image))), [], task.Controls())
    found = gates.gathered(seen)
    if not found:
        raise ValueError(f"{options.model}: has no gates: it was trained with recalibration none, or by another method")
    options.out.mkdir(parents=True, exist_ok=True)
    names = [str(path) for path in paths]
    layers = gates.figures(task, found, names)
    (options.out / "gates.json").write_text(json.dumps({"pictures": names, "layers": layers}, indent=1) + "\n")
    save_picture(gates.picture(found).expand(-1, 3, -1, -1), options.out / "gates.png")
    print(f"{len(found)} layers, {len(paths)} pictures: {options.out / 'gates.json'}, {options.out / 'gates.png'}")
    return 0
