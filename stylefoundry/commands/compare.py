"""`stylefoundry compare`: several models on the same pictures, on the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from stylefoundry.commands.stylize import write
from stylefoundry.terminal import AsJson, DataDir, client_of, out, print_json, print_table, value_of
from stylefoundry.types import Comparison

METHOD = "method:"


def compare(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]MODEL[@VERSION]", help="Models; `method:sanet` is that method's newest one."),
    ],
    content: Annotated[list[str], typer.Option(metavar="DATASET:PATH", help="Pictures of one dataset; may repeat.")],
    style: Annotated[list[str], typer.Option(metavar="DATASET:PATH", help="Pictures of one dataset; may repeat.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Where the sheet goes.")] = Path("comparison.jpg"),
    size: Annotated[int, typer.Option(help="Shorter side of the contents, pixels.")] = 256,
    note: Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="Written under its pictures.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="[NAME:]CONTROL=VALUE", help="A control of one model, or all.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the comparison.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Draw the same pictures with several models on one worker: a contact sheet and a table."""
    if output.suffix.lower() not in (".jpg", ".jpeg"):
        raise typer.BadParameter(f"--out {output}: the sheet is a JPEG, so its name ends in .jpg")
    entries = contestants(models, note or [], settings or [])
    with client_of(data_dir) as client:
        made = client.comparisons.submit(
            entries, pictures("--content", content), pictures("--style", style), size=size, name=name
        )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=out, disable=as_json or not out.is_terminal) as progress:
            bar = progress.add_task("comparing", total=len(entries))
            done = client.comparisons.wait(
                made.id, progress=lambda seen: progress.update(bar, completed=seen.progress.step)
            )
        write(output, client.comparisons.sheet(made.id))
    if as_json:
        print_json(done)
        return
    show(done)
    out.print(f"{done.id}  {escape(str(output))}", soft_wrap=True)


def contestants(models: Sequence[str], notes: Sequence[str], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Bodies of the models. Raises typer.BadParameter for a note or control of nobody."""
    entries: dict[str, dict[str, Any]] = {}
    for text in models:
        name, equals, reference = text.rpartition("=")
        what = {"method": reference.removeprefix(METHOD)} if reference.startswith(METHOD) else {"model": reference}
        own = name if equals else reference.removeprefix(METHOD).partition("@")[0].replace("/", "-")
        if own in entries:
            raise typer.BadParameter(f"{own} takes part twice: write NAME={reference} to give one another name")
        entries[own] = what | {"name": own, "controls": {}}
    for text in notes:
        name, equals, value = text.partition("=")
        if not equals or name not in entries:
            raise typer.BadParameter(f"--note {text}: write NAME=TEXT, with a name of {', '.join(entries)}")
        entries[name]["note"] = value
    for text in settings:
        target, equals, value = text.partition("=")
        name, colon, control = target.partition(":")
        if not equals or (colon and name not in entries):
            raise typer.BadParameter(f"--set {text}: write [NAME:]CONTROL=VALUE, with a name of {', '.join(entries)}")
        for each in [name] if colon else list(entries):
            entries[each]["controls"][control if colon else name] = value_of(value)
    return list(entries.values())


def pictures(flag: str, given: Sequence[str]) -> tuple[str, list[str]]:
    """A dataset and paths in it. Raises typer.BadParameter."""
    parts = [text.partition(":") for text in given]
    datasets = {dataset for dataset, _, _ in parts}
    if not all(colon and path for _, colon, path in parts):
        raise typer.BadParameter(f"{flag} {given[0]}: write DATASET:PATH, as photos:cat.jpg")
    if len(datasets) > 1:
        raise typer.BadParameter(
            f"{flag}: all pictures of {flag[2:]} come from one dataset, not {', '.join(sorted(datasets))}"
        )
    return parts[0][0], [path for _, _, path in parts]


def show(comparison: Comparison) -> None:
    rows = []
    for one in comparison.models:
        cells = [escape(one.name), one.method, one.model]
        if (found := one.figures) is not None:
            mib = "" if found.peak_mib is None else f"{found.peak_mib:,.0f}"
            losses = [f"{found.content_loss:.3f}", f"{found.style_loss:.3f}"]
            cells += [*losses, f"{found.seconds:.2f}", f"{found.mpx_per_s:.3f}", mib, f"{found.parameters:,.0f}"]
        rows.append((*cells, escape(one.note)))
    headings = (">CONTENT LOSS", ">STYLE LOSS", ">SECONDS", ">MPX/S", ">PEAK MIB", ">PARAMETERS")
    print_table(("NAME", "METHOD", "MODEL", *headings, ""), rows)
