"""`stylefoundry doctor`: what is in the way, one line for each thing that is needed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import httpx2
import typer
from rich.markup import escape

from stylefoundry.errors import ApiError, Error
from stylefoundry.terminal import DataDir, client_of, out
from stylefoundry.transport import Transport


class Finding(NamedTuple):
    ok: bool
    what: str
    told: str


def doctor(data_dir: DataDir = None) -> None:
    """Check the way from here to the workers."""
    findings = []
    with client_of(data_dir) as client:
        for finding in findings_of(client.http):
            findings.append(finding)
            mark = "[green]ok[/]  " if finding.ok else "[red]FAIL[/]"
            out.print(f"{mark} {finding.what:14} {escape(finding.told)}", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def findings_of(service: Transport) -> Iterator[Finding]:
    """In the order in which one needs the other; ends where the rest could not be asked."""
    yield Finding(True, "client", f"stylefoundry {version('stylefoundry')}, Python {platform.python_version()}")
    try:
        ready = httpx2.get(f"{service.url}/readyz", timeout=10)
        described = httpx2.get(f"{service.url}/openapi.json", timeout=10).json()
    except (httpx2.HTTPError, ValueError) as error:
        yield Finding(False, "service", f"{service.url} does not answer as one: {error or type(error).__name__}")
        return
    theirs = described.get("info", {}).get("version", "unknown")
    yield Finding(True, "service", f"{service.url}, version {theirs}")
    yield from parts_of(ready)
    try:
        methods = service.get("/v1/methods")["data"]
        yield Finding(True, "key", f"accepted; {len(methods)} methods")
    except ApiError as error:
        yield Finding(False, "key", f"{error}: see STYLEFOUNDRY_API_KEY")
    except Error as error:
        yield Finding(False, "key", str(error))


def parts_of(ready: httpx2.Response) -> Iterator[Finding]:
    """A finding for each part that the service needs."""
    try:
        parts = ready.json()["parts"]
    except (ValueError, KeyError):
        yield Finding(False, "ready", f"HTTP {ready.status_code}: {ready.text[:200]}")
        return
    for name, healthy in parts.items():
        yield Finding(bool(healthy), name, "healthy" if healthy else "away; what needs it waits")
