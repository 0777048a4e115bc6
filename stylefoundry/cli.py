"""`stylefoundry`: the stack on this machine, and everything a service can be asked for."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stylefoundry.commands import (
    administration,
    bulk,
    compare,
    datasets,
    doctor,
    fanouts,
    jobs,
    keys,
    methods,
    models,
    sweeps,
    tenants,
    weights,
)
from stylefoundry.terminal import run

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=__doc__, pretty_exceptions_enable=False)

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        help="Folder that holds the stack: database, objects, ports, secrets, logs.",
        envvar="STYLEFOUNDRY_DATA_DIR",
    ),
]
DEFAULT_DATA_DIR = Path(".stylefoundry")
STACK = "This machine"
SERVICE = "A service, here or elsewhere"
NOT_RUNNING = 3  # exit code of `status`

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command(rich_help_panel=STACK)
def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Annotated[int | None, typer.Option(help="Port of web page and API; kept for later starts.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once everything answers; it runs on.")] = False,
) -> None:
    """Start the service on this machine: database, Redis, object store, Ray, API, dispatcher."""
    with _embedded("control") as control:
        if control.running(data_dir) is not None:
            _print_access(control.wait_until_ready(data_dir, lambda: control.running(data_dir) is not None))
        elif detach:
            _print_access(control.detach(data_dir, port, _print_progress))
        else:
            control.run(data_dir, port, _print_progress, _print_ready)


@app.command(rich_help_panel=STACK)
def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the service on this machine and return when nothing of it runs any more."""
    with _embedded("control") as control:
        out.print("stopped" if control.down(data_dir) else f"no stack runs in {escape(str(data_dir))}")


@app.command(rich_help_panel=STACK)
def status(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the secrets, for scripts.")] = False,
) -> None:
    """Show the parts of the service on this machine. Exits with 3 when it does not run."""
    with _embedded("control", exit_code=NOT_RUNNING) as control:
        found = control.status(data_dir)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _print_status(found)
    if found["pid"] is None:
        raise typer.Exit(NOT_RUNNING)


@app.command(rich_help_panel=STACK)
def migrate(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Bring the database to the newest schema: that of STYLEFOUNDRY_DATABASE_URL, else of the data directory."""
    with _embedded("schema") as schema:
        out.print(f"newest schema: {escape(schema.migrate(data_dir))}")


@app.command(rich_help_panel=STACK)
def backup(
    folder: Annotated[Path, typer.Argument(help="Where it goes; a backup that is there is brought up to date.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Copy all rows and objects into a folder while the service goes on (of the settings, else of --data-dir)."""
    with _embedded("backups") as backups:
        backups.back_up(data_dir, folder, _print_progress)
    out.print(f"complete: {escape(str(folder))}")


@app.command(rich_help_panel=STACK)
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Put a backup into an empty service. Jobs that were at work go on from their checkpoints."""
    with _embedded("backups") as backups:
        backups.restore(data_dir, folder, _print_progress)
    out.print(f"restored from {escape(str(folder))}")


app.add_typer(datasets.app, name="datasets", rich_help_panel=SERVICE)
jobs.app.command("estimate")(bulk.estimate)
jobs.app.command("batch")(bulk.batch)
app.add_typer(jobs.app, name="jobs", rich_help_panel=SERVICE)
app.add_typer(fanouts.app, name="fanouts", rich_help_panel=SERVICE)
app.add_typer(sweeps.app, name="sweeps", rich_help_panel=SERVICE)
app.command("compare", rich_help_panel=SERVICE)(compare.compare)
app.add_typer(models.app, name="models", rich_help_panel=SERVICE)
app.command("methods", rich_help_panel=SERVICE)(methods.methods)
app.add_typer(keys.app, name="keys", rich_help_panel=SERVICE)
app.add_typer(administration.webhooks, name="webhooks", rich_help_panel=SERVICE)
app.command("usage", rich_help_panel=SERVICE)(administration.usage)
app.command("audit", rich_help_panel=SERVICE)(administration.audit)
app.add_typer(tenants.app, name="tenants", rich_help_panel=SERVICE)
app.add_typer(weights.app, name="weights", rich_help_panel=SERVICE)
app.command("doctor", rich_help_panel=SERVICE)(doctor.doctor)


def main() -> None:
    run(app)


@contextlib.contextmanager
def _embedded(module: str, exit_code: int = 1) -> Iterator[Any]:
    """A module of the embedded stack, which a client's installation does not have; its errors become one message."""
    try:
        stack = importlib.import_module("orchestrator.embedded.stack")
        found = importlib.import_module(f"orchestrator.embedded.{module}")
    except ModuleNotFoundError as error:
        err.print(f"[red]error:[/] {error}: this command needs `pip install 'stylefoundry\\[embedded]'`")
        raise typer.Exit(1) from None
    try:
        yield found
    except stack.StackError as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(exit_code) from None


def _print_progress(line: str) -> None:
    out.print(f"[dim]{escape(line)}[/]")


def _print_ready(stack: Any) -> None:
    _print_access(stack)
    out.print("Ctrl-C stops everything.")


def _print_access(stack: Any) -> None:
    out.print(f"web page  {escape(stack.kept.url)}")
    out.print(f"API key   {escape(stack.kept.api_key)}")


def _print_status(found: dict[str, Any]) -> None:
    for name, part in found["parts"].items():
        word = "[green]healthy[/]" if part["healthy"] else "[red]away[/]"
        out.print(f"{name:<11} {word}" + (f"  pid {part['pid']}" if part["pid"] else ""))
    out.print(f"web page    {escape(found['url'])}" if found["pid"] else "not running")


if __name__ == "__main__":
    main()
