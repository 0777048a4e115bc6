"""API keys and tenants. Of a key only its SHA-256 is stored: 32 random bytes need no slow hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.store.database import db_now
from orchestrator.store.inserts import insert_missing
from orchestrator.store.tables import ApiKey, Tenant

DEFAULT_TENANT = "default"
KEY_PREFIX = "sf_"
SHOWN_CHARACTERS = 10  # of a key in lists


class Caller(NamedTuple):
    """Whose key it is."""

    key_id: str
    tenant: str  # tenant_…
    tenant_name: str
    admin: bool


class NamedKey(NamedTuple):
    key: ApiKey
    tenant_name: str


def new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def caller_of(tx: Session, digest: str) -> Caller | None:
    """Who holds the key with this digest; None when nobody does, or it was revoked."""
    query = (
        select(ApiKey.id, Tenant.id, Tenant.name, ApiKey.admin)
        .join(Tenant, Tenant.id == ApiKey.tenant_id)
        .where(ApiKey.sha256 == digest, ApiKey.revoked_at.is_(None))
    )
    row = tx.execute(query).one_or_none()
    return None if row is None else Caller(*row)


def ensure_tenant(tx: Session, name: str) -> Tenant:
    """The tenant called `name`, made when it is missing; two callers at once get the same one."""
    insert_missing(tx, Tenant, [{"id": new_id("tenant"), "name": name, "created_at": db_now()}], unique=["name"])
    return tx.scalars(select(Tenant).where(Tenant.name == name)).one()


def ensure_admin(tx: Session, secret: str) -> None:
    """Make the key of the settings known, as an administrator's of the default tenant."""
    row = {
        "id": new_id("key"),
        "tenant_id": ensure_tenant(tx, DEFAULT_TENANT).id,
        "name": "administrator",
        "prefix": secret[:SHOWN_CHARACTERS],
        "sha256": digest_of(secret),
        "admin": True,
        "created_at": db_now(),
    }
    insert_missing(tx, ApiKey, [row], unique=["sha256"])


def create(tx: Session, key_id: str, secret: str, *, name: str, tenant: Tenant, admin: bool) -> ApiKey:
    key = ApiKey(
        id=key_id,
        tenant_id=tenant.id,
        name=name,
        prefix=secret[:SHOWN_CHARACTERS],
        sha256=digest_of(secret),
        admin=admin,
        created_at=db_now(),
    )
    tx.add(key)
    tx.flush()
    tx.refresh(key)
    return key


def find(tx: Session, key_id: str) -> NamedKey | None:
    query = select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id).where(ApiKey.id == key_id)
    row = tx.execute(query).one_or_none()
    return None if row is None else NamedKey(*row)


def page(tx: Session, *, after: str | None, limit: int) -> list[NamedKey]:
    """Keys of all tenants in the order of their making, those with ids above `after`."""
    query = select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id).order_by(ApiKey.id).limit(limit)
    rows = tx.execute(query if after is None else query.where(ApiKey.id > after))
    return [NamedKey(*row) for row in rows]


def revoke(tx: Session, key_id: str) -> None:
    """Once revoked, a key stays so from that moment."""
    tx.execute(update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=db_now()))


def tenants(tx: Session, *, after: str | None, limit: int) -> Sequence[Tenant]:
    query = select(Tenant).order_by(Tenant.id).limit(limit)
    return tx.scalars(query if after is None else query.where(Tenant.id > after)).all()
