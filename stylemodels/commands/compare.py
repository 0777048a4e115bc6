"""`compare`: several models on the same pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from stylemodels.commands import progress
from stylemodels.commands.arguments import add_machine, json_or_text, model_folder, weights
from stylemodels.commands.folders import pictures_under
from stylemodels.comparison import Contestant, Drawn, Named, as_json, blocks, compare, table
from stylemodels.encoders import EncoderName, load_encoder
from stylemodels.images import load_picture, save_picture
from stylemodels.sheet import contact_sheet, thumbnail
from stylemodels.stylize import load_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Draw every content in every style with several finished models, one after the other on this machine. Writes "
        "sheet.png, table.json and every picture, and prints the table: content and style loss, seconds, megapixels a "
        "second, peak memory, parameters."
    )
    command.epilog = (
        "example: python -m stylemodels compare gatys wct-small mine=run/model --content photo.jpg --style wave.jpg "
        "--set gatys:steps=200 --note 'mine=trained for 20 minutes' --out compared"
    )
    command.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]DIR|NAME",
        help="a finished model's folder, or the name of one that comes with the library",
    )
    for kind in ("content", "style"):
        command.add_argument(
            f"--{kind}", type=Path, required=True, action="append", metavar="FILE|DIR", help=f"{kind} pictures"
        )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where all of it goes")
    command.add_argument("--size", type=int, default=256, metavar="N", help="shorter side of contents; 0 = as it is")
    command.add_argument("--note", action="append", default=[], metavar="NAME=TEXT", help="written under its pictures")
    command.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="[NAME:]CONTROL=VALUE",
        help="a control of one model, or of all",
    )
    command.add_argument(
        "--encoder", choices=get_args(EncoderName), default="small", help="who measures (default: %(default)s)"
    )
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    if options.size < 0:
        raise ValueError(f"--size {options.size}: at least 0 is allowed")
    contestants = contestants_of(options)
    contents, styles = (
        [Named(path.name, load_picture(path)) for path in pictures_of(given)]
        for given in (options.content, options.style)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    drawn: list[Drawn] = []

    def drew(one: Drawn) -> None:
        drawn.append(one._replace(picture=thumbnail(one.picture)))
        save_picture(one.picture, options.out / f"{one.contestant}-{one.content + 1}-{one.style + 1}.png")

    lines = compare(
        contestants,
        [one.picture for one in contents],
        [one.picture for one in styles],
        encoder=load_encoder(options.encoder, weights(options)),
        size=options.size,
        drew=drew,
        report=lambda share: progress.show(f"{progress.bar(share)} {share:.0%}"),
    )
    progress.end()
    notes = {one.name: one.note for one in contestants}
    contact_sheet(blocks(contents, styles, drawn, notes)).save(options.out / "sheet.png")
    (options.out / "table.json").write_text(json.dumps(as_json(lines), indent=1) + "\n")
    print(table(lines))
    print(options.out / "sheet.png")
    return 0


def contestants_of(options: argparse.Namespace) -> list[Contestant]:
    """The models with their names, notes and controls. Raises ValueError that names the argument."""
    places = dict(named(text) for text in options.models)
    if len(places) < len(options.models):
        raise ValueError("models: two have one name; write NAME=DIR to give one another name")
    notes = dict(pair("--note", text, places) for text in options.note)
    controls = controls_of(options.set, places)
    return [
        Contestant(name, load_model(model_folder(place), weights(options)), controls[name], notes.get(name, ""))
        for name, place in places.items()
    ]


def named(text: str) -> tuple[str, str]:
    """`mine=run/model` is a name and a place; a place alone has the name of its last part that is not `model`.

    Names have no `/`: pictures are called after them.
    """
    name, equals, place = text.partition("=")
    if equals and "/" not in name:
        return name, place
    parts = [part for part in Path(text).parts if part not in ("model", "/")]
    return (parts or [text])[-1], text


def pair(flag: str, text: str, places: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in places:
        raise ValueError(f"{flag} {text}: write NAME=TEXT, with a name of {', '.join(places)}")
    return name, value


def controls_of(assignments: Sequence[str], places: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The controls of each model; those without a name are everybody's. Raises ValueError."""
    controls: dict[str, dict[str, Any]] = {name: {} for name in places}
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write [NAME:]CONTROL=VALUE")
        name, colon, control = target.partition(":")
        if colon and name not in places:
            raise ValueError(f"--set {assignment}: there is no {name!r}, only {', '.join(places)}")
        for each in [name] if colon else places:
            controls[each][control if colon else name] = json_or_text(text)
    return controls


def pictures_of(given: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as all their pictures."""
    return [path for one in given for path in (pictures_under(one) if one.is_dir() else [one])]
