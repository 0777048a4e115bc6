"""What a `POST` with an `Idempotency-Key` made, kept for a day in the transaction that made it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from orchestrator.store.database import db_now
from orchestrator.store.inserts import conflict_insert
from orchestrator.store.tables import IdempotencyKey

KEPT_S = 24 * 3600


class Made(NamedTuple):
    """What an earlier request with the same key left."""

    fingerprint: str
    status: int
    resource: str


def claim(tx: Session, tenant: str, key: str, *, fingerprint: str, status: int, resource: str) -> Made | None:
    """Take `key` for what this transaction makes; what is there already if somebody else took it within a day.

    One statement decides. A second request at the same moment waits in it for the first one's commit.
    """
    given = {"tenant": tenant, "key": key, "fingerprint": fingerprint, "status": status, "resource": resource}
    if tx.execute(_claim(tx.get_bind().dialect.name), given).one_or_none() is not None:
        return None
    found = select(IdempotencyKey.fingerprint, IdempotencyKey.status, IdempotencyKey.resource).where(
        IdempotencyKey.tenant_id == tenant, IdempotencyKey.key == key
    )
    return Made(*tx.execute(found).one())


@cache
def _claim(dialect: str) -> Any:
    """Built once for each database."""
    values: dict[str, Any] = {name: bindparam(name) for name in ("fingerprint", "status", "resource")} | {
        "created_at": db_now()
    }
    insert = conflict_insert(dialect, IdempotencyKey).values(
        tenant_id=bindparam("tenant"), key=bindparam("key"), **values
    )
    return insert.on_conflict_do_update(
        index_elements=["tenant_id", "key"],
        set_={name: insert.excluded[name] for name in values},
        where=IdempotencyKey.created_at < db_now() - KEPT_S,
    ).returning(IdempotencyKey.__table__.c.key)
