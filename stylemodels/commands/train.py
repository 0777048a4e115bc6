"""`train`: from folders of pictures to a model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from stylemodels.commands import progress
from stylemodels.commands.arguments import add_assignments, add_machine, settings, weights
from stylemodels.folder_run import FolderRun
from stylemodels.methods import all_methods


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train a task of a method on folders of pictures. Checkpoints, previews and at last the model lie in --out."
    )
    command.epilog = (
        "example: python -m stylemodels train sanet --content photos/ --style paintings/ --set encoder=small steps=5000"
    )
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


def datasets() -> list[str]:
    """Every dataset that some task trains on."""
    tasks = [task for method in all_methods().values() for task in method.tasks.values()]
    return sorted({name for task in tasks for name in task.needs.datasets})


def run(options: argparse.Namespace) -> int:
    training = FolderRun(
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
    training.train(resume=options.resume, say=show_step)
    print(f"\n{training.model_folder}")
    return 0


def show_step(step: int, total_steps: int, terms: Mapping[str, float], steps_per_second: float) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
    progress.show(f"{step}/{total_steps}  {steps_per_second:.2f} steps/s  {figures}")
