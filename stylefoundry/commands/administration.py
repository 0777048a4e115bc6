"""`stylefoundry webhooks`, `usage` and `audit`: what keeps a service in order."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.terminal import (
    AsJson,
    DataDir,
    age_text,
    client_of,
    out,
    print_facts,
    print_json,
    print_table,
    size_text,
    status_text,
)

webhooks = typer.Typer(help="What is told to other services, and how that went.", no_args_is_help=True)


@webhooks.command("secret")
def secret(
    overlap: Annotated[
        float | None, typer.Option(metavar="HOURS", help="So long do earlier secrets sign along; default 24.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make the secret that signs from now on. It is shown once (managers)."""
    with client_of(data_dir) as client:
        made = client.admin.webhook_secret(overlap_s=None if overlap is None else round(overlap * 3600))
    out.print(made, soft_wrap=True)


@webhooks.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    job: Annotated[str | None, typer.Option(metavar="JOB", help="Only of this job.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The newest deliveries."""
    with client_of(data_dir) as client:
        found = client.admin.deliveries(status=status, job=job)
    if as_json:
        print_json(found)
        return
    rows = [
        (d.id, d.job_id, d.event, status_text(d.status), str(d.tries), escape(d.error or ""), age_text(d.created_at))
        for d in found
    ]
    print_table(("DELIVERY", "JOB", "EVENT", "STATUS", ">TRIES", "ERROR", ">AGE"), rows)


@webhooks.command("redeliver")
def redeliver(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="delivery_…")], data_dir: DataDir = None
) -> None:
    """Send one once more."""
    with client_of(data_dir) as client:
        delivery = client.admin.redeliver(delivery_id)
    out.print(f"{delivery.id} {status_text(delivery.status)}", soft_wrap=True)


def usage(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """What the tenant of this key stores."""
    with client_of(data_dir) as client:
        seen = client.admin.usage()
    if as_json:
        print_json(seen)
        return
    stored = seen.bytes
    print_facts(
        [
            ("tenant", escape(seen.tenant)),
            ("pictures", size_text(stored.pictures)),
            ("datasets", size_text(stored.datasets)),
            ("checkpoints", size_text(stored.checkpoints)),
            ("models", size_text(stored.models)),
            ("together", size_text(stored.total)),
            ("limit", "none" if seen.max_bytes is None else size_text(seen.max_bytes)),
        ]
    )


def audit(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's (administrators).")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only what this key did.")] = None,
    resource: Annotated[str | None, typer.Option(metavar="ID", help="Only what was done to, or made, this.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Who changed what, and what was refused (managers)."""
    with client_of(data_dir) as client:
        found = client.admin.audit(limit=limit, tenant=tenant, key=key, resource=resource)
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{e.at:%Y-%m-%d %H:%M:%S}", escape(e.tenant), e.key, f"{e.verb} {escape(e.route)}", escape(e.resource),
         escape(e.made or ""), str(e.status), e.ip or "")
        for e in found
    ]  # fmt: skip
    print_table(("AT", "TENANT", "KEY", "REQUEST", "OF", "MADE", ">ANSWER", "FROM"), rows)
