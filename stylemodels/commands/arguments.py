"""Arguments that several verbs share, and what becomes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylemodels.builtin import builtin_folder
from stylemodels.images import load_picture
from stylemodels.maps import load_mask, load_regions
from stylemodels.method import Style
from stylemodels.stylize import Model, interpolate, load_model
from stylemodels.weights import Weights


def add_assignments(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help=help)


def add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, default=1, help="of the CPU; decides the last bits of results")
    command.add_argument("--weights", type=Path, metavar="DIR", help="folder of the encoders' published weights")


def add_drawing(command: argparse.ArgumentParser) -> None:
    """Which model draws, in which styles, and how."""
    command.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="DIR|NAME[:WEIGHT]",
        help="a finished model's folder, or the name of one that comes with the library; "
        "several are mixed if they were adapted from the same start",
    )
    command.add_argument(
        "--style",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="a style picture; several are mixed by weight, or each is painted where its mask says",
    )
    command.add_argument(
        "--mask",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="gray picture over the content, white where the style goes: the first for the first --style, and so on; "
        "styles without one take what is left",
    )
    command.add_argument(
        "--content-labels",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PNG over the content whose colours name its regions; with --style-labels, once or for every --style",
    )
    command.add_argument(
        "--style-labels",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PNG over the style picture: its regions of the same colours, one for every --style",
    )
    add_assignments(
        command,
        "a control: the model's own, which `describe` and its card list, or one of every model: strength, size, "
        "style_size, preserve_color (none, luminance, coral), passes",
    )


def drawing_model(options: argparse.Namespace) -> Model:
    """The model of `add_drawing`: one, or the mixture of several."""
    models = []
    for text in options.model:
        name, weight = name_and_weight(text)
        models.append((load_model(model_folder(name), weights(options)), weight))
    return models[0][0] if len(models) == 1 else interpolate(models)


def model_folder(name: str) -> Path:
    """A folder of this name, else that of the built-in model. Raises ValueError that says which there are."""
    return Path(name) if Path(name).is_dir() else builtin_folder(name)


def drawing_styles(options: argparse.Namespace) -> list[Style]:
    """The style pictures of `add_drawing`, with their weights, masks and label maps."""
    pairs = [name_and_weight(text) for text in options.style]
    styles = [Style(load_picture(Path(name)), weight) for name, weight in pairs]
    for flag, files in (("--mask", options.mask), ("--style-labels", options.style_labels)):
        if len(files) > len(styles):
            raise ValueError(f"{flag} {files[-1]}: there are {len(styles)} --style and {len(files)} {flag}")
    for place, mask in enumerate(options.mask):
        styles[place] = replace(styles[place], mask=load_mask(mask))
    contents = options.content_labels
    if len(contents) == 1:
        contents = contents * max(1, len(options.style_labels))
    if len(contents) != len(options.style_labels):
        raise ValueError("--content-labels: there must be one for every --style-labels, or one for all of them")
    for place, (content, style) in enumerate(zip(contents, options.style_labels, strict=True)):
        styles[place] = replace(styles[place], regions=load_regions(content, style))
    return styles


def name_and_weight(text: str) -> tuple[str, float]:
    """The name and the weight in `starry:0.3`; without a number at the end the weight is 1."""
    name, separator, weight = text.rpartition(":")
    try:
        return (name, float(weight)) if separator else (text, 1.0)
    except ValueError:
        return text, 1.0


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
