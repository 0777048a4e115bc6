"""What a tenant may have of the cluster, and has."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from orchestrator.api.auth import Reader
from orchestrator.api.schemas import View, problems
from orchestrator.api.services import Here
from orchestrator.store import accounts

router = APIRouter(prefix="/v1/quota", tags=["tenants"])


class HeldView(View):
    held: int
    limit: int | None = Field(description="null: as much as there is")


class QuotaView(View):
    tenant: str
    weight: float
    cpus: HeldView
    gpus: HeldView
    waiting: HeldView = Field(description="jobs; the blocked and paused ones too")
    classes: list[str] = Field(description="of priority that its jobs may have")
    share: float = Field(
        description="of the cluster, held now and lately, over the weight: among jobs of one class, those of the "
        "tenant with the smallest go first"
    )


@router.get("", responses=problems(403))
def get_quota(caller: Reader, services: Here) -> QuotaView:
    """The quotas of the key's tenant, and what it holds of them."""
    with services.db.read() as tx:
        seen = accounts.usage(tx, caller.tenant)
    tenant, declared = seen.tenant, services.catalogue.classes
    return QuotaView(
        tenant=tenant.name,
        weight=tenant.weight,
        cpus=HeldView(held=tenant.cpus_taken, limit=tenant.max_cpus),
        gpus=HeldView(held=tenant.gpus_taken, limit=tenant.max_gpus),
        waiting=HeldView(held=seen.waiting, limit=tenant.max_queued),
        classes=[name for name in declared if accounts.may_use(name, tenant.classes)],
        share=seen.share,
    )
