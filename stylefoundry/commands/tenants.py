"""`stylefoundry tenants`: who shares the service, and how much of it each may have."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from stylefoundry.terminal import AsJson, DataDir, client_of, print_facts, print_json, print_table
from stylefoundry.types import Held, Tenant

app = typer.Typer(help="Tenants and their quotas.", no_args_is_help=True)

NO_LIMIT = "none"
Limit = Annotated[str | None, typer.Option(metavar="N|none")]


@app.command("quota")
def quota(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """What the tenant of this key may have, and has."""
    with client_of(data_dir) as client:
        seen = client.quota()
    if as_json:
        print_json(seen)
        return
    print_facts(
        [
            ("tenant", escape(seen.tenant)),
            ("cores", _held_text(seen.cpus)),
            ("GPUs", _held_text(seen.gpus)),
            ("waiting jobs", _held_text(seen.waiting)),
            ("classes", escape(", ".join(seen.classes))),
            ("weight", f"{seen.weight:g}"),
            ("share", f"{seen.share:.3f}"),
        ]
    )


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """All tenants (administrators)."""
    with client_of(data_dir) as client:
        tenants = client.tenants()
    if as_json:
        print_json(tenants)
        return
    print_table(("TENANT", ">WEIGHT", ">CORES", ">GPUS", ">WAITING", "CLASSES"), [_row(tenant) for tenant in tenants])


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="TENANT")],
    weight: Annotated[float | None, typer.Option(help="Of its fair share of the cluster.")] = None,
    max_cpus: Limit = None,
    max_gpus: Limit = None,
    max_queued: Limit = None,
    classes: Annotated[str | None, typer.Option(metavar="NAME,…|all", help="Of priority, besides standard.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Set what a tenant may use (administrators); what is not named stays."""
    limits = {"max_cpus": max_cpus, "max_gpus": max_gpus, "max_queued": max_queued}
    values: dict[str, Any] = {key: _limit(key, text) for key, text in limits.items() if text is not None}
    if weight is not None:
        values["weight"] = weight
    if classes is not None:
        values["classes"] = None if classes == "all" else [part for part in classes.split(",") if part]
    with client_of(data_dir) as client:
        tenant = client.change_tenant(name, **values)
    if as_json:
        print_json(tenant)
    else:
        print_table(("TENANT", ">WEIGHT", ">CORES", ">GPUS", ">WAITING", "CLASSES"), [_row(tenant)])


def _limit(option: str, text: str) -> int | None:
    if text == NO_LIMIT:
        return None
    if not text.isdigit():
        raise ValueError(f"--{option.replace('_', '-')} {text}: a number, or {NO_LIMIT}")
    return int(text)


def _row(tenant: Tenant) -> tuple[str, ...]:
    limits = (tenant.max_cpus, tenant.max_gpus, tenant.max_queued)
    classes = "all" if tenant.classes is None else ", ".join(["standard", *tenant.classes])
    return (
        escape(tenant.name),
        f"{tenant.weight:g}",
        *(NO_LIMIT if limit is None else str(limit) for limit in limits),
        escape(classes),
    )


def _held_text(held: Held) -> str:
    return str(held.held) if held.limit is None else f"{held.held} of {held.limit}"
