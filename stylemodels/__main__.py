"""`python -m stylemodels describe | train | stylize`: the library without any service."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stylemodels.checkpoint import Damaged
from stylemodels.describe import describe
from stylemodels.folder_run import FolderRun
from stylemodels.images import load_picture, save_picture
from stylemodels.method import Style
from stylemodels.methods import all_methods
from stylemodels.stylize import interpolate, load_model
from stylemodels.train import Diverged
from stylemodels.weights import Weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after a message on what the caller got wrong."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        status: int = options.run(options)
    except (ValueError, Damaged, Diverged) as error:
        print(f"stylemodels: {error}", file=sys.stderr)
        return 1
    return status


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m stylemodels", description="Train and use style transfer models.")
    top.set_defaults(threads=1)
    commands = top.add_subparsers(required=True, metavar="describe | train | stylize")
    command = commands.add_parser("describe", help="print methods, settings and encoders as JSON")
    command.set_defaults(run=run_describe)
    add_train(commands.add_parser("train", help="train on local folders of pictures"))
    add_stylize(commands.add_parser("stylize", help="draw a picture with a finished model"))
    return top


def add_train(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_train)
    command.add_argument("task", help="METHOD or METHOD/TASK, like metastyle or metastyle/adapt")
    for dataset in datasets():
        command.add_argument(f"--{dataset}", type=Path, metavar="DIR", help=f"folder of the {dataset} pictures")
    command.add_argument("--base", type=Path, metavar="DIR", help="folder of the model to start from")
    command.add_argument("--style-image", type=Path, metavar="FILE", help="the one picture that an adaptation learns")
    command.add_argument("--out", type=Path, metavar="DIR", help="default: METHOD-TASK")
    command.add_argument("--config", type=Path, metavar="FILE", help="settings as a JSON object")
    add_assignments(command, "a setting, over --config")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add_machine(command)


def add_stylize(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_stylize)
    several = "DIR[:WEIGHT]; several are mixed if they were adapted from the same start"
    command.add_argument("--model", action="append", required=True, metavar="DIR", help=several)
    command.add_argument("--content", type=Path, required=True, metavar="FILE")
    command.add_argument("--style", type=Path, action="append", default=[], metavar="FILE")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png, .jpg or .jpeg")
    add_assignments(command, "a control of the model")
    add_machine(command)


def add_assignments(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help=help)


def add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, default=1, help="of the CPU; decides the last bits of results")
    command.add_argument("--weights", type=Path, metavar="DIR", help="folder of the encoders' published weights")


def datasets() -> list[str]:
    """Every dataset that some task trains on."""
    tasks = [task for method in all_methods().values() for task in method.tasks.values()]
    return sorted({name for task in tasks for name in task.needs.datasets})


def run_describe(_: argparse.Namespace) -> int:
    print(json.dumps(describe(), indent=1))
    return 0


def run_train(options: argparse.Namespace) -> int:
    run = FolderRun(
        options.task,
        settings(options.set, options.config),
        folders={name: folder for name in datasets() if (folder := getattr(options, name)) is not None},
        out=options.out,
        seed=options.seed,
        base=options.base,
        style_image=options.style_image,
        weights=weights(options),
        device=options.device,
    )
    run.train(resume=options.resume, say=progress_line)
    print(f"\n{run.model_folder}")
    return 0


def run_stylize(options: argparse.Namespace) -> int:
    models = []
    for text in options.model:
        folder, weight = folder_and_weight(text)
        models.append((load_model(folder, weights(options)), weight))
    model = models[0][0] if len(models) == 1 else interpolate(models)
    styles = [Style(load_picture(path)) for path in options.style]
    save_picture(model.stylize(load_picture(options.content), styles, settings(options.set)), options.out)
    print(options.out)
    return 0


def folder_and_weight(text: str) -> tuple[Path, float]:
    """The folder and the weight in `starry:0.3`; without a number at the end the weight is 1."""
    folder, separator, weight = text.rpartition(":")
    try:
        return (Path(folder), float(weight)) if separator else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def weights(options: argparse.Namespace) -> Weights | None:
    return None if options.weights is None else Weights(options.weights)


def settings(assignments: Sequence[str], file: Path | None = None) -> dict[str, Any]:
    """Settings of a JSON file with NAME=VALUE over them. A value is JSON, or else a string."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: not a JSON file of settings: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file}: settings are a JSON object")
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set {assignment}: write NAME=VALUE")
        values[name] = json_or_text(text)
    return values


def json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def progress_line(step: int, total_steps: int, terms: Mapping[str, float], steps_per_second: float) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
    line = f"{step}/{total_steps}  {steps_per_second:.2f} steps/s  {figures}"
    print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
