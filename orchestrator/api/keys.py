"""Keys and tenants: an administrator's affair."""

from __future__ import annotations

from fastapi import APIRouter, Response

from orchestrator.api.auth import Administrator
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Given, Instant, Name, View, problems
from orchestrator.api.services import Here
from orchestrator.ids import new_id
from orchestrator.problems import NotFound
from orchestrator.store import keys
from orchestrator.store.keys import NamedKey
from orchestrator.store.tables import Tenant

router = APIRouter(prefix="/v1", tags=["keys"])


class KeyCreate(Given):
    name: Name
    tenant: Name | None = None  # by name, made when it is new; null: the caller's own
    admin: bool = False


class KeyView(View):
    id: str
    name: str
    tenant: str
    prefix: str
    admin: bool
    created_at: Instant
    revoked_at: Instant | None


class NewKeyView(KeyView):
    """Shown once: only the key's digest is stored, so the answer to a repeated request has null."""

    key: str | None


class TenantCreate(Given):
    name: Name


class TenantView(View):
    id: str
    name: str
    created_at: Instant


@router.post("/keys", status_code=201, responses=problems(*WRITES))
def create_key(
    body: KeyCreate, caller: Administrator, services: Here, response: Response, key: IdempotencyKey = None
) -> NewKeyView:
    """Make a key, and its tenant where that is new."""
    key_id, secret = new_id("key"), keys.new_secret()
    with services.db.write() as tx:
        made = made_before(tx, caller.tenant, key, status=201, resource=key_id)
        if made is None:
            tenant = keys.ensure_tenant(tx, body.tenant or caller.tenant_name)
            keys.create(tx, key_id, secret, name=body.name, tenant=tenant, admin=body.admin)
        found = keys.find(tx, made or key_id)
    if found is None:
        raise NotFound(f"there is no key {made}")
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(**_view(found).__dict__, key=secret if made is None else None)


@router.get("/keys", responses=problems(403))
def list_keys(caller: Administrator, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[KeyView]:
    """All keys of all tenants, the revoked ones too, in the order of their making."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = keys.page(tx, after=place, limit=limit + 1)
    page = cut(found, limit, lambda named: [named.key.id])
    return Listing(data=[_view(named) for named in page.rows], next_cursor=page.next_cursor)


@router.post("/keys/{id}/revoke", responses=problems(403, 404))
def revoke_key(id: str, caller: Administrator, services: Here) -> KeyView:
    """Let a key count no more; other replicas of the API may take it for one second longer."""
    with services.db.write() as tx:
        if keys.find(tx, id) is None:
            raise NotFound(f"there is no key {id!r}")
        keys.revoke(tx, id)
        found = keys.find(tx, id)
    services.access.forget()
    assert found is not None
    return _view(found)


@router.post("/tenants", status_code=201, responses=problems(*WRITES))
def create_tenant(body: TenantCreate, caller: Administrator, services: Here, key: IdempotencyKey = None) -> TenantView:
    """Make a tenant; one that is there already is given again."""
    with services.db.write() as tx:
        tenant = keys.ensure_tenant(tx, body.name)
        made_before(tx, caller.tenant, key, status=201, resource=tenant.id)
    return _tenant_view(tenant)


@router.get("/tenants", responses=problems(403))
def list_tenants(
    caller: Administrator, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[TenantView]:
    """All tenants in the order of their making."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = keys.tenants(tx, after=place, limit=limit + 1)
    page = cut(found, limit, lambda tenant: [tenant.id])
    return Listing(data=[_tenant_view(tenant) for tenant in page.rows], next_cursor=page.next_cursor)


def _view(named: NamedKey) -> KeyView:
    key = named.key
    return KeyView(
        id=key.id,
        name=key.name,
        tenant=named.tenant_name,
        prefix=key.prefix,
        admin=key.admin,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )


def _tenant_view(tenant: Tenant) -> TenantView:
    return TenantView(id=tenant.id, name=tenant.name, created_at=tenant.created_at)
