"""The audit log: who changed what, with which result, from where; also what was refused.

An entry is written with the request's own transaction (`database.before_commit`), so there is no change without one;
what had no transaction, or failed, is written right after.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.store.database import before_commit, db_now
from orchestrator.store.tables import AuditEntry, Tenant

INSERT_ENTRY = insert(cast(Table, AuditEntry.__table__)).values(at=db_now())  # built once: every change runs it


@dataclass
class Entry:
    """A request under way."""

    tenant_id: str
    key_id: str
    verb: str
    route: str
    resource: str
    status: int  # what it answers if its transaction is committed
    ip: str | None
    made: str | None = None
    written: int | None = None  # the status under which it stands in the log

    def stands(self) -> None:
        self.written = self.status


class Shown(NamedTuple):
    entry: AuditEntry
    tenant: str  # name


_entry: ContextVar[Entry | None] = ContextVar("audit_entry", default=None)


def begin(entry: Entry) -> None:
    """Write `entry` with the first transaction that this request commits, in whatever thread."""
    _entry.set(entry)
    before_commit.set(lambda tx: _with_transaction(tx, entry))


def note_made(resource: str) -> None:
    """Say what the request that is under way makes."""
    if (entry := _entry.get()) is not None:
        entry.made = resource


def write(tx: Session, entry: Entry) -> None:
    values = {
        "id": new_id("audit"),
        "tenant_id": entry.tenant_id,
        "key_id": entry.key_id,
        "verb": entry.verb,
        "route": entry.route,
        "resource": entry.resource,
        "made": entry.made,
        "status": entry.status,
        "ip": entry.ip,
    }
    tx.execute(INSERT_ENTRY, values)


def failed(entry: Entry, status: int) -> Entry:
    """The same request with what it answered in fact; what it was about to make is not there."""
    return replace(entry, status=status, made=None if status >= 400 else entry.made)


def page(
    tx: Session, *, tenant: str | None, key: str | None, resource: str | None, before: str | None, limit: int
) -> list[Shown]:
    """Entries of a tenant, or of all, newest first, those with ids below `before`."""
    query = select(AuditEntry, Tenant.name).join(Tenant, Tenant.id == AuditEntry.tenant_id)
    if tenant is not None:
        query = query.where(AuditEntry.tenant_id == tenant)
    if key is not None:
        query = query.where(AuditEntry.key_id == key)
    if resource is not None:
        query = query.where((AuditEntry.resource == resource) | (AuditEntry.made == resource))
    if before is not None:
        query = query.where(AuditEntry.id < before)
    return [Shown(*row) for row in tx.execute(query.order_by(AuditEntry.id.desc()).limit(limit))]


def forget(tx: Session, *, age_s: float) -> None:
    """Drop entries older than this."""
    tx.execute(delete(AuditEntry).where(AuditEntry.at < db_now() - age_s))


def _with_transaction(tx: Session, entry: Entry) -> Callable[[], None] | None:
    """Only a transaction that is committed has written it: one that is repeated writes it again."""
    if entry.written is not None:
        return None
    write(tx, entry)
    return entry.stands
