"""What every command shares: the client of the chosen stack, tables, figures for people, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stylefoundry.client import Client
from stylefoundry.errors import ApiError, Error
from stylefoundry.reading import to_json

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the stack to talk to; else STYLEFOUNDRY_URL, STYLEFOUNDRY_DATA_DIR, .stylefoundry count.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# One hue per kind of status, the same as on the web page.
COLORS = {
    "blocked": "bright_black",
    "queued": "cyan",
    "waiting": "cyan",
    "stopped": "bright_black",
    "paused": "yellow",
    "starting": "blue",
    "running": "blue",
    "pausing": "yellow",
    "cancelling": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "bright_black",
    "expired": "red",
    "ready": "green",
    "ingesting": "blue",
    "rejected": "red",
    "damaged": "red",
    "lost": "red",
}

NEVER_BROKEN = ("JOB", "FANOUT", "SWEEP", "KEY", "STATUS", "STEP", "AGE")  # the first two are copied from
PIPED_WIDTH = 200  # characters of a line that goes to no terminal

out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, highlight=False)


def client_of(data_dir: Path | None) -> Client:
    return Client(data_dir=data_dir)


def run(command: Callable[[], None]) -> None:
    """Run a command line; what went wrong becomes a line (and one for each bad field) and exit code 1."""
    try:
        command()
    except ApiError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        for field in error.errors:
            err.print(f"  {escape(field.pointer)}: {escape(field.detail)}", soft_wrap=True)
        sys.exit(1)
    except (Error, ValueError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def print_json(value: Any) -> None:
    """Types of ours or plain JSON, indented."""
    plain = value if isinstance(value, dict) else to_json(value)
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Cells may carry rich's markup: escape what a user named. A column `>speed` is aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        name = column.removeprefix(">")
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name in NEVER_BROKEN)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="bright_black")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, value)
    out.print(table)


def status_text(status: str) -> str:
    return f"[{COLORS.get(status, 'white')}]{status}[/]"


def size_text(size_bytes: int | None) -> str:
    """1536 → `1.5 KiB`."""
    if size_bytes is None:
        return ""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def span_text(seconds: float | None) -> str:
    """75.2 → `1:15`, 4000 → `1:06:40`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age_text(instant: datetime | None) -> str:
    """How long ago: `12 s`, `5 min`, `3 h`, `2 d`."""
    if instant is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - instant).total_seconds())
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def number_text(value: float) -> str:
    """Four digits that count: 0.01234, 12.34, 1.234e+06."""
    return f"{value:.4g}"


def value_of(text: str) -> Any:
    """`3`, `0.5`, `true`, `[1, 2]` as JSON reads them; anything else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def pairs_of(options: Sequence[str], flag: str) -> dict[str, str]:
    """`key=value` options. Raises typer.BadParameter for one without `=`."""
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{option!r} was given, write {flag} KEY=VALUE")
        pairs[key] = value
    return pairs


def reference_of(text: str) -> tuple[str, str]:
    """`starry@3` → (`starry`, `3`); without a version `latest`."""
    name, _, version = text.partition("@")
    return name, version or "latest"


def numbered(reference: str) -> tuple[str, int]:
    """`NAME@VERSION` with a number: what is deleted is said exactly."""
    name, at, version = reference.partition("@")
    if not at or not version.isdigit():
        raise typer.BadParameter(f"{reference!r} was given, write NAME@VERSION with a number")
    return name, int(version)
