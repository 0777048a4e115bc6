"""`stylefoundry keys`: who may use the service (administrators)."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.terminal import AsJson, DataDir, age_text, client_of, out, print_json, print_table

app = typer.Typer(help="API keys and tenants (administrators).", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose or what it is for.")],
    tenant: Annotated[str | None, typer.Option(help="Another tenant sees none of this one's things.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may make and revoke keys.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once: the service keeps only its digest."""
    with client_of(data_dir) as client:
        key = client.create_key(name, tenant=tenant, admin=admin)
    if as_json:
        print_json(key)
        return
    out.print(f"{key.id} for {escape(key.name)}, tenant {escape(key.tenant)}:", soft_wrap=True)
    out.print(f"[bold]{key.key}[/]", soft_wrap=True)


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
            "admin" if key.admin else "",
            "[red]revoked[/]" if key.revoked_at is not None else age_text(key.created_at),
        )
        for key in keys
    ]
    print_table(("KEY", "NAME", "TENANT", "BEGINS", "", ">AGE"), rows)


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="key_…")], data_dir: DataDir = None) -> None:
    """Let a key count no more."""
    with client_of(data_dir) as client:
        client.revoke_key(key_id)
    out.print(f"{escape(key_id)} is revoked")
