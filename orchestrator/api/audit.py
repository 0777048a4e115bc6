"""The audit log, for a tenant's managers; that of all tenants for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from orchestrator.api.auth import Manager
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import Instant, Name, Text, View, problems
from orchestrator.api.services import Here
from orchestrator.problems import Forbidden, NotFound
from orchestrator.store import audit, tenants

router = APIRouter(prefix="/v1/audit", tags=["tenants"])


class AuditView(View):
    id: str
    at: Instant
    tenant: str
    key: str = Field(description="id of the key that asked")
    verb: str
    route: str = Field(description="the path's template")
    resource: str = Field(description="what the path names")
    made: str | None = Field(description="what was made")
    status: int = Field(description="of the answer")
    ip: str | None


@router.get("", responses=problems(404))
def list_audit(
    caller: Manager,
    services: Here,
    tenant: Annotated[Name | None, Query(description="only this one's; administrators: nothing said is all")] = None,
    key: Annotated[Text | None, Query(description="id of a key")] = None,
    resource: Annotated[Text | None, Query(description="an id, or name/version")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[AuditView]:
    """Requests that changed something, or were refused to, newest first."""
    (place,) = where(cursor, str) or (None,)
    if tenant not in (None, caller.tenant_name) and not caller.admin:
        raise Forbidden(f"the audit log of another tenant than {caller.tenant_name} needs the scope admin")
    with services.db.read() as tx:
        of = None if caller.admin else caller.tenant
        if tenant is not None:
            named = tenants.named(tx, tenant)
            if named is None:
                raise NotFound(f"there is no tenant {tenant!r}")
            of = named.id
        found = audit.page(tx, tenant=of, key=key, resource=resource, before=place, limit=limit + 1)
    page = cut(found, limit, lambda shown: [shown.entry.id])
    return Listing(data=[_view(shown) for shown in page.rows], next_cursor=page.next_cursor)


def _view(shown: audit.Shown) -> AuditView:
    entry = shown.entry
    return AuditView(
        id=entry.id,
        at=entry.at,
        tenant=shown.tenant,
        key=entry.key_id,
        verb=entry.verb,
        route=entry.route,
        resource=entry.resource,
        made=entry.made,
        status=entry.status,
        ip=entry.ip,
    )
