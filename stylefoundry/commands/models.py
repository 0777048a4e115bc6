"""`stylefoundry models`: fetch what was trained, use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.commands.stylize import Reference, stylize
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
)

app = typer.Typer(help="What was trained, and what comes with the service.", no_args_is_help=True)


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The newest version of every model."""
    with client_of(data_dir) as client:
        models = client.models()
    if as_json:
        print_json(models)
    else:
        rows = [
            (
                f"{escape(m.name)}@{m.version}",
                f"{m.method}/{m.task}",
                size_text(sum(f.size for f in m.files)),
                "built in" if m.builtin else escape(", ".join(m.aliases)),
            )
            for m in models
        ]
        print_table(("MODEL", "METHOD", ">SIZE", "ALIASES"), rows)
        if all(m.builtin for m in models):
            out.print("No models of your own yet: a job that succeeds leaves one. stylefoundry jobs submit --help")


@app.command("show")
def show(reference: Reference, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One version: its files and where it comes from."""
    with client_of(data_dir) as client:
        model = client.model(*reference_of(reference))
    if as_json:
        print_json(model)
        return
    print_facts(
        [
            ("model", f"{escape(model.name)}@{model.version}"),
            ("method", f"{model.method}/{model.task}"),
            ("aliases", escape(", ".join(model.aliases))),
            ("built in", "comes with the service" if model.builtin else ""),
            *(
                (key, escape(value if isinstance(value, str) else json.dumps(value)))
                for key, value in model.lineage.items()
                if value
            ),
            *((file.path, size_text(file.size)) for file in model.files),
        ]
    )


@app.command("fetch")
def fetch(
    reference: Reference,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; default NAME-VERSION here.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Download a model, every file checked against its sha256."""
    name, version = reference_of(reference)
    with client_of(data_dir) as client:
        where = client.fetch_model(name, version, folder)
    out.print(str(where), soft_wrap=True)


app.command("stylize")(stylize)


@app.command("delete")
def delete(reference: Annotated[str, typer.Argument(metavar="NAME@VERSION")], data_dir: DataDir = None) -> None:
    """Delete one version; its number is not given out again."""
    name, version = numbered(reference)
    with client_of(data_dir) as client:
        client.delete_model(name, version)
    out.print(f"{escape(reference)} is deleted")


@app.command("unalias")
def unalias(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str, typer.Argument(help="Which of its aliases.")],
    data_dir: DataDir = None,
) -> None:
    """Let NAME@ALIAS mean nothing any more."""
    with client_of(data_dir) as client:
        client.delete_alias(name, alias)
    out.print(f"{escape(name)}@{escape(alias)} means nothing any more")


@app.command("alias")
def alias(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str, typer.Argument(help="What to call the version.")],
    version: Annotated[int, typer.Argument(help="The version.")],
    data_dir: DataDir = None,
) -> None:
    """Let NAME@ALIAS mean a version."""
    with client_of(data_dir) as client:
        model = client.set_alias(name, alias, version)
    out.print(f"{escape(model.name)}@{escape(alias)} is version {model.version}")
