"""What a tenant stores, by the rows that name objects. Sample pictures and logs, a small part, are not counted."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.store.tables import Blob, Checkpoint, DatasetVersion, Job, ModelVersion
from orchestrator.store.tenants import limits


class Stored(NamedTuple):
    """Bytes."""

    pictures: int  # that uploads brought, once each
    datasets: int  # their packed copies, of every version
    checkpoints: int
    models: int

    @property
    def total(self) -> int:
        return sum(self)


class Full(NamedTuple):
    """A limit that is reached."""

    stored: Stored
    most: int


def stored(tx: Session, tenant: str) -> Stored:
    pictures = select(func.sum(Blob.size)).where(Blob.tenant_id == tenant)
    datasets = select(func.sum(DatasetVersion.bytes)).where(DatasetVersion.tenant_id == tenant)
    checkpoints = select(func.sum(Checkpoint.bytes)).join(Job, Job.id == Checkpoint.job_id)
    models = select(func.sum(ModelVersion.bytes)).where(ModelVersion.tenant_id == tenant)
    queries = (pictures, datasets, checkpoints.where(Job.tenant_id == tenant), models)
    return Stored(*(int(tx.scalar(query) or 0) for query in queries))


def full(tx: Session, tenant: str, *, more: int = 1) -> Full | None:
    """The limit, if `more` bytes would go beyond it. Only a tenant with a limit costs a sum over its rows."""
    most = limits(tx, tenant).max_bytes
    if most is None:
        return None
    now = stored(tx, tenant)
    return Full(now, most) if now.total + more > most else None
