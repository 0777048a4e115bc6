"""`stylefoundry fanouts`: train once, adapt to many styles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.commands.jobs import read_config
from stylefoundry.terminal import AsJson, DataDir, age_text, client_of, out, print_facts, print_json, print_table
from stylefoundry.types import Fanout

app = typer.Typer(help="Train once, adapt to many styles.", no_args_is_help=True)

FanoutId = Annotated[str, typer.Argument(metavar="FANOUT", help="fanout_…")]


@app.command("submit")
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML or JSON: adapt, style_images, train, name.")],
    style_image: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A style; over the file's. None at all: every picture.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Queue a fan-out."""
    body = read_config(file)
    if style_image:
        body["style_images"] = style_image
    if "adapt" not in body:
        raise ValueError(f"{file} names no adapt: the job that every style gets")
    with client_of(data_dir) as client:
        made = client.fanouts.submit(body.pop("adapt"), body.pop("style_images", ["*"]), **body)
    _show(made, as_json)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 30,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The newest fan-outs."""
    with client_of(data_dir) as client:
        found = client.fanouts.list(limit)
    if as_json:
        print_json(found)
        return
    rows = [(f.id, escape(f.name), f.phase, counts_text(f.counts), age_text(f.created_at)) for f in found]
    print_table(("FANOUT", "NAME", "PHASE", "JOBS", ">AGE"), rows)


@app.command("show")
def show(fanout_id: FanoutId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One fan-out, and how far its jobs are."""
    with client_of(data_dir) as client:
        _show(client.fanouts.get(fanout_id), as_json)


@app.command("cancel")
def cancel(fanout_id: FanoutId, data_dir: DataDir = None) -> None:
    """Cancel every job of it that has not ended."""
    with client_of(data_dir) as client:
        out.print(counts_text(client.fanouts.cancel(fanout_id).counts))


def counts_text(counts: dict[str, int]) -> str:
    """`3 queued, 1 running`."""
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _show(fanout: Fanout, as_json: bool) -> None:
    if as_json:
        print_json(fanout)
        return
    print_facts(
        [
            ("fan-out", fanout.id),
            ("name", escape(fanout.name)),
            ("phase", fanout.phase),
            ("jobs", counts_text(fanout.counts)),
            ("styles", str(fanout.styles)),
            ("training", fanout.train or ""),
            ("created", f"{age_text(fanout.created_at)} ago"),
        ]
    )
