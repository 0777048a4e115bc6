"""What only the web page asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from orchestrator.store import comparisons
from orchestrator.store.tables import Event, Job, ModelVersion, Sample


class Newest(NamedTuple):
    """The picture that stands for a job."""

    step: int
    name: str


def newest_results(tx: Session, job_ids: Sequence[str]) -> dict[str, Newest]:
    """The first stylised picture of each job's newest preview grid; jobs without one are left out."""
    if not job_ids:
        return {}
    results = and_(Sample.job_id.in_(job_ids), Sample.name.startswith("result"))
    newest = (
        select(Sample.job_id, func.max(Sample.step).label("step")).where(results).group_by(Sample.job_id).subquery()
    )
    query = (
        select(Sample.job_id, Sample.step, func.min(Sample.name))
        .join(newest, and_(Sample.job_id == newest.c.job_id, Sample.step == newest.c.step))
        .where(results)
        .group_by(Sample.job_id, Sample.step)
    )
    return {job_id: Newest(step, name) for job_id, step, name in tx.execute(query)}


def sample_key(tx: Session, job_id: str, step: int, name: str) -> str | None:
    """Where a preview picture lies in the object store; None when there is none."""
    return tx.scalar(select(Sample.key).where(Sample.job_id == job_id, Sample.step == step, Sample.name == name))


def log_tail(tx: Session, job_id: str, *, events: int) -> list[dict[str, Any]]:
    """The lines of the newest `log` events, oldest first."""
    query = (
        select(Event.body).where(Event.job_id == job_id, Event.event == "log").order_by(Event.id.desc()).limit(events)
    )
    bodies = list(tx.scalars(query))
    return [line for body in reversed(bodies) for line in body["lines"]]


def methods_used(tx: Session, tenant: str) -> list[str]:
    """The methods of a tenant's jobs: what a list of them can be narrowed to."""
    query = (
        select(Job.method)
        .where(Job.tenant_id == tenant, Job.kind == "train", Job.method != comparisons.PREFIX)
        .distinct()
        .order_by(Job.method)
    )
    return list(tx.scalars(query))


def model_of_job(tx: Session, job_id: str) -> tuple[str, int] | None:
    """Name and version of what a job published."""
    row = tx.execute(select(ModelVersion.name, ModelVersion.version).where(ModelVersion.job_id == job_id)).one_or_none()
    return None if row is None else (row.name, row.version)
