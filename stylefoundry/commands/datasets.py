"""`stylefoundry datasets`: folders of pictures become versions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stylefoundry.terminal import (
    AsJson,
    DataDir,
    client_of,
    numbered,
    out,
    print_facts,
    print_json,
    print_table,
    reference_of,
    size_text,
    status_text,
)
from stylefoundry.types import Dataset

app = typer.Typer(help="Folders of pictures, kept as versions.", no_args_is_help=True)

REFUSED_SHOWN = 20
STAGES = {"hash": "reading", "upload": "uploading", "ingest": "checking and packing"}


class Kind(StrEnum):
    IMAGES = "images"
    LABELLED = "labelled"


@app.command("push")
def push(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with JPEG, PNG or WebP files, at any depth.")],
    kind: Annotated[Kind, typer.Option(help="labelled: the subfolders are classes.")] = Kind.IMAGES,
    data_dir: DataDir = None,
) -> None:
    """Upload what the service does not hold yet, and make it a version."""
    with client_of(data_dir) as client, Bars() as bars:
        dataset = client.push_dataset(name, folder, kind.value, progress=bars.report)
    out.print(
        f"[green]{escape(dataset.name)}@{dataset.version}[/] is ready: "
        f"{dataset.count} pictures, {size_text(dataset.bytes)}"
    )
    print_refused(dataset)


class Bars:
    """A bar per stage of a push; where no terminal is, a line when a stage is complete."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:21}"), BarColumn(), TextColumn("{task.fields[amount]:>22}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=out, disable=not out.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        amount = "" if stage == "ingest" else f"{size_text(done)} of {size_text(total)}"
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(STAGES[stage], amount=amount)
        # An ingest does not tell how far it is: its bar only moves.
        length = None if stage == "ingest" and done < total else total
        self._progress.update(self._tasks[stage], completed=done, total=length, amount=amount)
        if done == total and not out.is_terminal:
            out.print(f"{STAGES[stage]}: {amount or 'done'}")


def print_refused(dataset: Dataset) -> None:
    """The pictures that could not be used, with the reason."""
    if not dataset.refused:
        return
    out.print(f"[yellow]{len(dataset.refused)} files could not be used:[/]")
    for refused in dataset.refused[:REFUSED_SHOWN]:
        out.print(f"  {escape(refused.path)}: {escape(refused.reason)}", soft_wrap=True)
    if len(dataset.refused) > REFUSED_SHOWN:
        out.print(f"  … all of them: stylefoundry datasets show {dataset.name}@{dataset.version} --json")


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The newest version of every dataset."""
    with client_of(data_dir) as client:
        datasets = client.datasets()
    if as_json:
        print_json(datasets)
    elif not datasets:
        out.print("No datasets yet: stylefoundry datasets push NAME DIR")
    else:
        rows = [
            (
                f"{escape(d.name)}@{d.version}",
                d.kind,
                status_text(d.status),
                str(d.count or ""),
                size_text(d.bytes),
                str(len(d.refused) or ""),
            )
            for d in datasets
        ]
        print_table(("DATASET", "KIND", "STATUS", ">PICTURES", ">SIZE", ">REFUSED"), rows)


@app.command("show")
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION]")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """One version; the newest without a number."""
    name, version = reference_of(reference)
    if version != "latest" and not version.isdigit():
        raise typer.BadParameter(f"{reference!r} was given, a version is a number")
    with client_of(data_dir) as client:
        dataset = client.dataset(name, None if version == "latest" else int(version))
    if as_json:
        print_json(dataset)
        return
    print_facts(
        [
            ("dataset", f"{escape(dataset.name)}@{dataset.version}"),
            ("status", status_text(dataset.status)),
            ("error", escape(dataset.error or "")),
            ("kind", dataset.kind),
            ("pictures", str(dataset.count or "")),
            ("size", size_text(dataset.bytes)),
            ("classes", escape(_classes_text(dataset))),
            ("hash", dataset.hash or ""),
        ]
    )
    print_refused(dataset)


def _classes_text(dataset: Dataset) -> str:
    counts = dataset.class_counts or {}
    return ", ".join(f"{name} ({counts[name]})" if name in counts else name for name in dataset.classes)


@app.command("delete")
def delete(reference: Annotated[str, typer.Argument(metavar="NAME@VERSION")], data_dir: DataDir = None) -> None:
    """Delete one version; its number is not given out again."""
    name, version = numbered(reference)
    with client_of(data_dir) as client:
        client.delete_dataset(name, version)
    out.print(f"{escape(reference)} is deleted")
