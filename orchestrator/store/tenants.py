"""Tenants: whose things are whose, and how much of them there may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.store.database import db_now
from orchestrator.store.inserts import insert_missing
from orchestrator.store.tables import Tenant

DEFAULT_TENANT = "default"


class Limits(NamedTuple):
    """None: no limit."""

    max_queued: int | None
    max_bytes: int | None


_columns = cast(Table, Tenant.__table__).c
LIMITS = select(_columns.max_queued, _columns.max_bytes).where(_columns.id == bindparam("tenant"))  # every submit asks


def limits(tx: Session, tenant: str) -> Limits:
    """What decides whether more has to be asked."""
    return Limits(*tx.execute(LIMITS, {"tenant": tenant}).one())


def ensure_tenant(tx: Session, name: str) -> Tenant:
    """The tenant called `name`, made when it is missing; two callers at once get the same one."""
    insert_missing(tx, Tenant, [{"id": new_id("tenant"), "name": name, "created_at": db_now()}], unique=["name"])
    return tx.scalars(select(Tenant).where(Tenant.name == name)).one()


def named(tx: Session, name: str) -> Tenant | None:
    return tx.scalars(select(Tenant).where(Tenant.name == name)).one_or_none()


def change(tx: Session, tenant: str, values: Mapping[str, Any]) -> None:
    """Write columns of a tenant's row."""
    tx.execute(update(Tenant).where(Tenant.id == tenant).values(**values))


def page(tx: Session, *, after: str | None, limit: int) -> Sequence[Tenant]:
    """All tenants in the order of their making, those with ids above `after`."""
    query = select(Tenant).order_by(Tenant.id).limit(limit)
    return tx.scalars(query if after is None else query.where(Tenant.id > after)).all()
