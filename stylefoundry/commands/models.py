"""`stylefoundry models`: fetch what was trained, use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.terminal import (
    AsJson,
    DataDir,
    client_of,
    out,
    pairs_of,
    print_facts,
    print_json,
    print_table,
    reference_of,
    size_text,
    value_of,
)

app = typer.Typer(help="What was trained.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version is a number or an alias.")]


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The newest version of every model."""
    with client_of(data_dir) as client:
        models = client.models()
    if as_json:
        print_json(models)
    elif not models:
        out.print("No models yet: a job that succeeds leaves one. stylefoundry jobs submit --help")
    else:
        rows = [
            (
                f"{escape(m.name)}@{m.version}",
                f"{m.method}/{m.task}",
                size_text(sum(f.size for f in m.files)),
                escape(", ".join(m.aliases)),
            )
            for m in models
        ]
        print_table(("MODEL", "METHOD", ">SIZE", "ALIASES"), rows)


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
            *(
                (key, escape(value if isinstance(value, str) else json.dumps(value)))
                for key, value in model.lineage.items()
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


@app.command("stylize")
def stylize(
    reference: Reference,
    content: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The picture.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Where to write the result.")] = Path("stylized.png"),
    style: Annotated[
        list[Path] | None, typer.Option(exists=True, dir_okay=False, help="For models of arbitrary styles; may repeat.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A control of the model, as strength=0.5.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Give a picture the model's style, on the service."""
    name, version = reference_of(reference)
    params = {key: value_of(value) for key, value in pairs_of(settings or [], "--set").items()}
    if output.suffix.lower() in (".jpg", ".jpeg"):
        params.setdefault("format", "jpeg")
    with client_of(data_dir) as client:
        picture = client.stylize(name, content, version=version, styles=style or (), params=params)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(picture)
    out.print(str(output), soft_wrap=True)


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
