"""Keys: made, listed, rotated and revoked by a tenant's managers, those of all tenants by administrators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.api.auth import Caller, Manager
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Given, Instant, Name, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.ids import new_id
from orchestrator.problems import Forbidden, NotFound, WrongState
from orchestrator.scopes import EVERY, USUAL, Scope, text_of
from orchestrator.store import keys, tenants
from orchestrator.store.database import db_now
from orchestrator.store.keys import Caller as KeyHolder
from orchestrator.store.keys import NamedKey

router = APIRouter(prefix="/v1/keys", tags=["keys"])

DAY_S = 86_400
LONGEST_S = 3650 * DAY_S
ScopeName = Literal["read", "submit", "write", "stylize", "manage", "admin"]


class KeyCreate(Given):
    name: Name
    tenant: Name | None = None  # by name, made when it is new (by an administrator); null: the caller's own
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=len(Scope))] | None = Field(
        None, description="nothing said: read, submit, write, stylize"
    )
    admin: bool = Field(False, description="every scope")
    expires_in_s: int | None = Field(None, ge=1, le=LONGEST_S, description="null: it does not expire")


class Rotation(Given):
    overlap_s: int = Field(DAY_S, ge=0, le=30 * DAY_S, description="so long counts the secret that it had until now")


class KeyView(View):
    id: str
    name: str
    tenant: str
    prefix: str
    scopes: list[str]
    admin: bool
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None = Field(description="to some minutes")
    previous_until: Instant | None = Field(description="until then the secret before the last rotation counts too")
    revoked_at: Instant | None


class NewKeyView(KeyView):
    """Shown once: only the key's digest is stored, so the answer to a repeated request has null."""

    key: str | None


@router.post("", status_code=201, responses=problems(*WRITES))
def create_key(
    body: KeyCreate, caller: Manager, services: Here, response: Response, key: IdempotencyKey = None
) -> NewKeyView:
    """Make a key, and its tenant where that is new. It may do no more than the key that makes it."""
    scopes = EVERY if body.admin else frozenset(map(Scope, body.scopes or USUAL))
    if Scope.ADMIN in scopes:
        scopes = EVERY
    _check_scopes(caller, scopes)
    _check_tenant(caller, body.tenant)
    key_id, secret = new_id("key"), keys.new_secret()
    with services.db.write() as tx:
        made = made_before(tx, caller.tenant, key, status=201, resource=key_id)
        if made is None:
            tenant = tenants.ensure_tenant(tx, body.tenant or caller.tenant_name)
            expires_at = None if body.expires_in_s is None else tx.scalar(select(db_now() + body.expires_in_s))
            keys.create(tx, key_id, secret, name=body.name, tenant=tenant, scopes=scopes, expires_at=expires_at)
        found = _found(tx, caller, made or key_id)
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(**_view(found).__dict__, key=secret if made is None else None)


@router.get("", responses=problems())
def list_keys(caller: Manager, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[KeyView]:
    """The tenant's keys, of all tenants for administrators; the revoked ones too, in the order of their making."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = keys.page(tx, tenant=_reach(caller), after=place, limit=limit + 1)
    page = cut(found, limit, lambda named: [named.key.id])
    return Listing(data=[_view(named) for named in page.rows], next_cursor=page.next_cursor)


@router.get("/current", responses=problems())
def current_key(caller: Caller, services: Here) -> KeyView:
    """The key that asks: whose it is and what it may do. Every key may ask this."""
    with services.db.read() as tx:
        found = keys.find(tx, caller.key_id)
    if found is None:
        raise NotFound("this key is gone")
    return _view(found)


@router.post("/{id}/rotate", responses=problems(404, 409, *WRITES))
def rotate_key(
    id: str,
    caller: Manager,
    services: Here,
    response: Response,
    body: Rotation | None = None,
    key: IdempotencyKey = None,
) -> NewKeyView:
    """Give a key a new secret. The one that it had counts for `overlap_s` seconds more, those before it no longer."""
    secret = keys.new_secret()
    with services.db.write() as tx:
        found = _changeable(tx, caller, id, services)
        made = made_before(tx, caller.tenant, key, status=200, resource=id)
        if made is None:
            keys.rotate(tx, id, secret, overlap_s=(body or Rotation()).overlap_s)
            tx.refresh(found.key)
    services.access.forget()
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(**_view(found).__dict__, key=secret if made is None else None)


@router.post("/{id}/revoke", responses=problems(404))
def revoke_key(id: str, caller: Manager, services: Here) -> KeyView:
    """Let a key count no more; other replicas of the API may take it for one second longer."""
    with services.db.write() as tx:
        found = _found(tx, caller, id)
        _check_scopes(caller, found.scopes)
        keys.revoke(tx, id)
        tx.refresh(found.key)
    services.access.forget()
    return _view(found)


def _reach(caller: KeyHolder) -> str | None:
    """The tenant whose keys the caller may see; None: all."""
    return None if caller.admin else caller.tenant


def _found(tx: Session, caller: KeyHolder, key_id: str) -> NamedKey:
    found = keys.find(tx, key_id, tenant=_reach(caller))
    if found is None:
        raise NotFound(f"there is no key {key_id!r}")
    return found


def _changeable(tx: Session, caller: KeyHolder, key_id: str, services: Services) -> NamedKey:
    """A key that may get another secret. Raises NotFound, Forbidden, WrongState."""
    found = _found(tx, caller, key_id)
    _check_scopes(caller, found.scopes)
    if found.key.revoked_at is not None:
        raise WrongState(f"{key_id} was revoked: make another one")
    configured = services.settings.admin_key
    if configured is not None and found.key.sha256 == keys.digest_of(configured.get_secret_value()):
        raise WrongState(f"{key_id} comes from the service's setting admin_key: it is changed there")
    return found


def _check_scopes(caller: KeyHolder, wanted: frozenset[Scope]) -> None:
    """Nobody hands out, or takes over, what they may not do themselves. Raises Forbidden."""
    if missing := wanted - caller.scopes:
        raise Forbidden(f"the key that asks lacks {text_of(missing)}: it can give nothing that it does not have")


def _check_tenant(caller: KeyHolder, tenant: str | None) -> None:
    """Raises Forbidden."""
    if tenant not in (None, caller.tenant_name) and not caller.admin:
        raise Forbidden(f"keys of another tenant than {caller.tenant_name} need the scope admin")


def _view(named: NamedKey) -> KeyView:
    key = named.key
    return KeyView(
        id=key.id,
        name=key.name,
        tenant=named.tenant_name,
        prefix=key.prefix,
        scopes=text_of(named.scopes).split(),
        admin=key.admin,
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        previous_until=key.previous_until,
        revoked_at=key.revoked_at,
    )
