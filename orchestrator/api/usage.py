"""What a tenant stores, and the limit on it."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator.api.auth import Reader
from orchestrator.api.schemas import View, problems
from orchestrator.api.services import Here
from orchestrator.problems import LimitReached
from orchestrator.store import storage
from orchestrator.store.tenants import limits

router = APIRouter(prefix="/v1/usage", tags=["tenants"])


class BytesView(View):
    pictures: int = Field(description="that uploads brought, once each")
    datasets: int = Field(description="their packed copies, of every version")
    checkpoints: int
    models: int
    total: int


class UsageView(View):
    tenant: str
    bytes: BytesView
    max_bytes: int | None = Field(description="null: as much as there is")


@router.get("", responses=problems())
def get_usage(caller: Reader, services: Here) -> UsageView:
    """How much the key's tenant stores. What is deleted counts no more at once, its objects follow."""
    with services.db.read() as tx:
        stored, most = storage.stored(tx, caller.tenant), limits(tx, caller.tenant).max_bytes
    return UsageView(tenant=caller.tenant_name, bytes=BytesView.model_validate(stored), max_bytes=most)


def check_room(tx: Session, tenant: str, *, more: int = 1) -> None:
    """Raises LimitReached where the tenant may not store `more` bytes. What runs already is not stopped by it."""
    if (full := storage.full(tx, tenant, more=more)) is not None:
        detail = f"this tenant stores {full.stored.total} of {full.most} bytes"
        asked = f", {more} more were asked for" if more > 1 else ""
        raise LimitReached(f"{detail}{asked}: delete jobs, models or datasets first")
