"""`classify`: which class each picture of a folder is of, and how often that is right."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stylemodels.commands.arguments import add_machine, model_folder, weights
from stylemodels.commands.folders import pictures_under
from stylemodels.images import load_picture
from stylemodels.methods.srm import DOMAIN_MARK
from stylemodels.stylize import load_model

Table = Mapping[str, float]  # class -> probability, the likeliest first


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = "Tell the likeliest classes of each picture under a folder, by a classifier (srm/classify)."
    command.epilog = "example: python -m stylemodels classify srm-classify/model --content photos/"
    command.add_argument("model", metavar="DIR", help="a finished model")
    command.add_argument("--content", type=Path, required=True, metavar="DIR", help="folder of pictures")
    command.add_argument("--top", type=int, default=5, metavar="N", help="so many classes (default: %(default)s)")
    command.add_argument("--json", type=Path, metavar="FILE", help="all classes of all pictures as JSON")
    command.add_argument(
        "--labelled",
        action="store_true",
        help="the folders right below --content say what is true: accuracy too, and a confusion matrix in the JSON",
    )
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise ValueError(f"--top {options.top}: at least 1 is allowed")
    model = load_model(model_folder(options.model), weights(options))
    paths = pictures_under(options.content)
    names = model.description.facts.get("class_names", [])
    labels = [true_class(path.relative_to(options.content), names) for path in paths] if options.labelled else []
    tables = {str(path): model.class_table(load_picture(path)) for path in paths}
    for path, table in tables.items():
        print(f"{path}: " + ", ".join(f"{name} {share:.3f}" for name, share in list(table.items())[: options.top]))
    written: dict[str, Any] = dict(tables)
    if options.labelled:
        figures = scores(list(tables.values()), labels, names)
        print(f"accuracy {figures['accuracy']:.4f} of {len(paths)} pictures")
        written = {**figures, "pictures": tables}
    if options.json is not None:
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0


def true_class(path: Path, names: Sequence[str]) -> str:
    """What the first folder of a path says: CLASS or DOMAIN__CLASS.

    Raises ValueError where that is none of the model's classes.
    """
    folder = path.parts[0] if len(path.parts) > 1 else ""
    for name in (folder, folder.rpartition(DOMAIN_MARK)[2]):
        if name in names:
            return name
    raise ValueError(f"{path}: its folder is called like none of the model's classes: {', '.join(names)}")


def scores(tables: Sequence[Table], labels: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """The shares of pictures that are told right, of all and of each class, and the confusion matrix.

    Its rows are the true classes, its columns those that were told, both in the order of `class_names`.
    """
    counts = [[0] * len(names) for _ in names]
    for table, label in zip(tables, labels, strict=True):
        counts[names.index(label)][names.index(next(iter(table)))] += 1
    right = {
        name: row[place] / sum(row) for place, (name, row) in enumerate(zip(names, counts, strict=True)) if sum(row)
    }
    accuracy = sum(counts[place][place] for place in range(len(names))) / len(labels)
    return {"accuracy": accuracy, "class_accuracy": right, "class_names": list(names), "confusion": counts}
