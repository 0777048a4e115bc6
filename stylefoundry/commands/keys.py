"""`stylefoundry keys`: who may use the service (managers and administrators)."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.terminal import AsJson, DataDir, age_text, client_of, out, print_json, print_table
from stylefoundry.types import Key

app = typer.Typer(help="API keys (managers and administrators).", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="key_…")]
DAY_S = 86_400


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose or what it is for.")],
    tenant: Annotated[str | None, typer.Option(help="Another tenant sees none of this one's things.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, submit, write, stylize (default: these four), manage, admin.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Every scope.")] = False,
    expires: Annotated[float | None, typer.Option(metavar="DAYS", help="It counts no more after so long.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once: the service keeps only its digest."""
    lifetime_s = None if expires is None else round(expires * DAY_S)
    with client_of(data_dir) as client:
        key = client.create_key(name, tenant=tenant, admin=admin, scopes=scope, expires_in_s=lifetime_s)
    _show_once(key, as_json)


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """All keys, the revoked ones too."""
    with client_of(data_dir) as client:
        keys = client.keys()
    if as_json:
        print_json(keys)
        return
    rows = [
        (
            key.id,
            escape(key.name),
            escape(key.tenant),
            f"{escape(key.prefix)}…",
            "admin" if key.admin else " ".join(key.scopes),
            "[red]revoked[/]" if key.revoked_at is not None else age_text(key.created_at),
            "never" if key.last_used_at is None else age_text(key.last_used_at),
        )
        for key in keys
    ]
    print_table(("KEY", "NAME", "TENANT", "BEGINS", "SCOPES", ">AGE", ">USED"), rows)


@app.command("rotate")
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        float | None, typer.Option(metavar="HOURS", help="So long counts the old secret; default 24.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Give a key a new secret. It is shown once."""
    with client_of(data_dir) as client:
        key = client.admin.rotate_key(key_id, overlap_s=None if overlap is None else round(overlap * 3600))
    _show_once(key, as_json)


@app.command("revoke")
def revoke(key_id: KeyId, data_dir: DataDir = None) -> None:
    """Let a key count no more."""
    with client_of(data_dir) as client:
        client.revoke_key(key_id)
    out.print(f"{escape(key_id)} is revoked")


def _show_once(key: Key, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    out.print(f"{key.id} for {escape(key.name)}, tenant {escape(key.tenant)}:", soft_wrap=True)
    out.print(f"[bold]{key.key}[/]", soft_wrap=True)
