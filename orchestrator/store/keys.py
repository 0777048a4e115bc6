"""API keys. Of a key only its SHA-256 is stored: 32 random bytes need no slow hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.scopes import EVERY, USUAL, Scope, scopes_of, text_of
from orchestrator.store.database import db_now
from orchestrator.store.inserts import insert_missing
from orchestrator.store.tables import ApiKey, Tenant
from orchestrator.store.tenants import DEFAULT_TENANT, ensure_tenant

KEY_PREFIX = "sf_"
SHOWN_CHARACTERS = 10  # of a key in lists
USED_EVERY_S = 300.0  # `last_used_at` is no finer: not a write per request


class Caller(NamedTuple):
    """Whose key it is, and what it may do."""

    key_id: str
    tenant: str  # tenant_…
    tenant_name: str
    scopes: frozenset[Scope]
    max_bytes: int | None  # that the tenant may store

    @property
    def admin(self) -> bool:
        return Scope.ADMIN in self.scopes


class NamedKey(NamedTuple):
    key: ApiKey
    tenant_name: str

    @property
    def scopes(self) -> frozenset[Scope]:
        return scopes_of(self.key.scopes, admin=self.key.admin)


def new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def caller_of(tx: Session, digest: str) -> Caller | None:
    """Who holds the key with this digest; None when nobody does, it was revoked, has expired or was rotated away."""
    current = ApiKey.sha256 == digest
    overlapping = and_(ApiKey.previous_sha256 == digest, ApiKey.previous_until > db_now())
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now())
    query = (
        select(ApiKey.id, Tenant.id, Tenant.name, ApiKey.scopes, ApiKey.admin, Tenant.max_bytes)
        .join(Tenant, Tenant.id == ApiKey.tenant_id)
        .where(or_(current, overlapping), ApiKey.revoked_at.is_(None), unexpired)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    key_id, tenant, tenant_name, scopes, admin, max_bytes = row
    return Caller(key_id, tenant, tenant_name, scopes_of(scopes, admin=admin), max_bytes)


def long_unnoted(tx: Session, key_id: str) -> bool:
    """True when the last use that is written down lies some minutes back."""
    return tx.scalar(select(ApiKey.id).where(ApiKey.id == key_id, _LONG_UNNOTED)) is not None


def note_use(tx: Session, key_id: str) -> None:
    """Write down that a key is used now, unless somebody did within the last minutes."""
    tx.execute(update(ApiKey).where(ApiKey.id == key_id, _LONG_UNNOTED).values(last_used_at=db_now()))


_LONG_UNNOTED = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now() - USED_EVERY_S)


def ensure_admin(tx: Session, secret: str) -> None:
    """Make the key of the settings known, as an administrator's of the default tenant."""
    row = {
        "id": new_id("key"),
        "tenant_id": ensure_tenant(tx, DEFAULT_TENANT).id,
        "name": "administrator",
        "prefix": secret[:SHOWN_CHARACTERS],
        "sha256": digest_of(secret),
        "admin": True,
        "scopes": text_of(EVERY),
        "created_at": db_now(),
    }
    insert_missing(tx, ApiKey, [row], unique=["sha256"])


def create(
    tx: Session,
    key_id: str,
    secret: str,
    *,
    name: str,
    tenant: Tenant,
    scopes: Iterable[Scope] = USUAL,
    expires_at: float | None = None,
) -> None:
    """expires_at: seconds since 1970; None: never."""
    granted = frozenset(scopes)
    tx.add(
        ApiKey(
            id=key_id,
            tenant_id=tenant.id,
            name=name,
            prefix=secret[:SHOWN_CHARACTERS],
            sha256=digest_of(secret),
            admin=Scope.ADMIN in granted,
            scopes=text_of(EVERY if Scope.ADMIN in granted else granted),
            expires_at=expires_at,
            created_at=db_now(),
        )
    )
    tx.flush()


def rotate(tx: Session, key_id: str, secret: str, *, overlap_s: float) -> None:
    """Give a key a new secret; the one that it had counts for `overlap_s` seconds more, those before it no longer."""
    values = {
        "previous_sha256": ApiKey.sha256,
        "previous_until": db_now() + overlap_s,
        "sha256": digest_of(secret),
        "prefix": secret[:SHOWN_CHARACTERS],
    }
    tx.execute(update(ApiKey).where(ApiKey.id == key_id).values(values))


def find(tx: Session, key_id: str, *, tenant: str | None = None) -> NamedKey | None:
    """A key; tenant: only if it is that tenant's."""
    row = tx.execute(_named(tenant).where(ApiKey.id == key_id)).one_or_none()
    return None if row is None else NamedKey(*row)


def page(tx: Session, *, tenant: str | None = None, after: str | None, limit: int) -> list[NamedKey]:
    """Keys of a tenant, or of all, in the order of their making, those with ids above `after`."""
    query = _named(tenant).order_by(ApiKey.id).limit(limit)
    rows = tx.execute(query if after is None else query.where(ApiKey.id > after))
    return [NamedKey(*row) for row in rows]


def revoke(tx: Session, key_id: str) -> None:
    """Once revoked, a key stays so from that moment."""
    tx.execute(update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=db_now()))


def _named(tenant: str | None) -> Select[ApiKey, str]:
    query = select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id)
    return query if tenant is None else query.where(ApiKey.tenant_id == tenant)
