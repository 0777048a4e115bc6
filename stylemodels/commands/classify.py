"""`classify`: which class each picture of a folder is of."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stylemodels.commands.arguments import add_machine, model_folder, weights
from stylemodels.commands.folders import pictures_under
from stylemodels.images import load_picture
from stylemodels.stylize import load_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = "Tell the likeliest classes of each picture under a folder, by a classifier (srm/classify)."
    command.epilog = "example: python -m stylemodels classify srm-classify/model --content photos/"
    command.add_argument("model", metavar="DIR", help="a finished model")
    command.add_argument("--content", type=Path, required=True, metavar="DIR", help="folder of pictures")
    command.add_argument("--top", type=int, default=5, metavar="N", help="so many classes (default: %(default)s)")
    command.add_argument("--json", type=Path, metavar="FILE", help="all classes of all pictures as JSON")
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise ValueError(f"--top {options.top}: at least 1 is allowed")
    model = load_model(model_folder(options.model), weights(options))
    tables = {str(path): model.class_table(load_picture(path)) for path in pictures_under(options.content)}
    for path, table in tables.items():
        print(f"{path}: " + ", ".join(f"{name} {share:.3f}" for name, share in list(table.items())[: options.top]))
    if options.json is not None:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")
    return 0
