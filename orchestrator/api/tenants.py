"""Tenants and what each of them may use: an administrator's affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator.api.auth import Administrator
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Given, Instant, Name, NamePath, View, problems
from orchestrator.api.services import Here
from orchestrator.problems import NotFound, invalid_field
from orchestrator.scheduling.classes import PriorityClass
from orchestrator.store import tenants
from orchestrator.store.tables import Tenant

router = APIRouter(prefix="/v1/tenants", tags=["tenants"])

MOST_BYTES = 2**63 - 1
MOST = 1_000_000
MOST_QUEUED = 100_000  # a submit counts the tenant's waiting jobs so far


class TenantCreate(Given):
    name: Name


class TenantChange(Given):
    """Fields that are left out stay as they are."""

    max_bytes: int | None = Field(
        None, ge=0, le=MOST_BYTES, description="of pictures, datasets, checkpoints and models; null: no limit"
    )

    weight: float = Field(1.0, ge=0.001, le=1000, description="of its fair share of the cluster")
    max_cpus: int | None = Field(None, ge=0, le=MOST, description="that its jobs hold at a time; null: no limit")
    max_gpus: int | None = Field(None, ge=0, le=MOST, description="that its jobs hold at a time; null: no limit")
    max_queued: int | None = Field(None, ge=0, le=MOST_QUEUED, description="jobs that wait; null: no limit")
    classes: Annotated[list[Name], Field(max_length=32)] | None = Field(
        None, description="of priority that its jobs may have besides standard; null: all"
    )


class TenantView(View):
    id: str
    name: str
    weight: float
    max_cpus: int | None
    max_gpus: int | None
    max_queued: int | None
    classes: list[str] | None
    max_bytes: int | None
    created_at: Instant


@router.post("", status_code=201, responses=problems(*WRITES))
def create_tenant(body: TenantCreate, caller: Administrator, services: Here, key: IdempotencyKey = None) -> TenantView:
    """Make a tenant; one that is there already is given again."""
    with services.db.write() as tx:
        tenant = tenants.ensure_tenant(tx, body.name)
        made_before(tx, caller.tenant, key, status=201, resource=tenant.id)
    return TenantView.model_validate(tenant)


@router.get("", responses=problems())
def list_tenants(
    caller: Administrator, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[TenantView]:
    """All tenants in the order of their making."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = tenants.page(tx, after=place, limit=limit + 1)
    page = cut(found, limit, lambda tenant: [tenant.id])
    return Listing(data=[TenantView.model_validate(tenant) for tenant in page.rows], next_cursor=page.next_cursor)


@router.get("/{name}", responses=problems(404))
def get_tenant(name: NamePath, caller: Administrator, services: Here) -> TenantView:
    """One tenant."""
    with services.db.read() as tx:
        return TenantView.model_validate(_found(tx, name))


@router.patch("/{name}", responses=problems(404, *WRITES))
def change_tenant(name: NamePath, body: TenantChange, caller: Administrator, services: Here) -> TenantView:
    """Set what a tenant may use. What it has already stays, also beyond a new limit."""
    given: dict[str, Any] = {field: getattr(body, field) for field in body.model_fields_set}
    with services.db.write() as tx:
        tenant = _found(tx, name)
        _check_classes(body.classes or [], services.settings.declared_classes)
        if given:
            tenants.change(tx, tenant.id, given)
            tx.refresh(tenant)
    services.access.forget()
    return TenantView.model_validate(tenant)


def _check_classes(wanted: Sequence[str], declared: Mapping[str, PriorityClass]) -> None:
    """Raises Invalid for a class that the settings do not declare."""
    for class_ in wanted:
        if class_ not in declared:
            raise invalid_field("/classes", f"there is no class {class_!r}; there are {', '.join(declared)}")


def _found(tx: Session, name: str) -> Tenant:
    tenant = tenants.named(tx, name)
    if tenant is None:
        raise NotFound(f"there is no tenant {name!r}")
    return tenant
