"""`export`: a finished model as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from stylemodels.commands.arguments import add_machine, model_folder, weights
from stylemodels.onnx_export import ONNX_FILE, write_onnx
from stylemodels.stylize import load_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = "Write a model at its default controls as an ONNX file of any picture size, and compare it."
    command.epilog = "example: python -m stylemodels export johnson-train/model --out johnson.onnx"
    command.add_argument("model", metavar="DIR|NAME", help="a finished model's folder, or a built-in one's name")
    command.add_argument("--out", type=Path, default=Path(ONNX_FILE), metavar="FILE", help=f"default: {ONNX_FILE}")
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    """Raises ValueError where the method has no ONNX form."""
    model = load_model(model_folder(options.model), weights(options))
    with TemporaryDirectory(dir=options.out.parent, prefix=f".{options.out.name}.") as name:
        result = write_onnx(Path(name), model.task)
        if not result.written:
            raise ValueError(f"{options.model}: no ONNX file can be made: {result.reason}")
        (Path(name) / ONNX_FILE).replace(options.out)
    for size, difference in result.differences.items():
        print(f"content of {size}: largest difference from PyTorch {difference:.1e}")
    print(options.out)
    return 0
