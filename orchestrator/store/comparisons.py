"""Comparisons: jobs of the queue that draw instead of training. Step k is the k-th model that takes part.

What is asked for stands in the job's config, complete and pinned; figures are metrics, pictures are samples. Those of
step 0 are the contents and styles as they were compared, for their dataset may be deleted later.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.ids import is_id
from orchestrator.objects import blob_key
from orchestrator.states import TERMINAL
from orchestrator.store.tables import Job, Metric, Sample

PREFIX = "comparison"  # of ids; also the method of its jobs
TASK = "compare"
SHEET = "sheet"  # the sample with all pictures on one page


def find(tx: Session, tenant: str, comparison_id: str) -> Job | None:
    """A tenant's comparison; None for what is another tenant's or no id of one."""
    if not is_id(PREFIX, comparison_id):
        return None
    return tx.scalars(select(Job).where(Job.id == comparison_id, Job.tenant_id == tenant)).one_or_none()


def page(tx: Session, tenant: str, *, before: str | None, limit: int) -> list[Job]:
    """A tenant's comparisons, newest first, those with ids below `before`."""
    query = select(Job).where(Job.tenant_id == tenant, Job.kind == "train", Job.method == PREFIX)
    query = query.where(Job.id < (before or "job_"))  # ids of jobs come behind all of these
    return list(tx.scalars(query.order_by(Job.id.desc()).limit(limit)))


def figures(tx: Session, comparison_id: str) -> dict[int, dict[str, float]]:
    """Place of a model, from 1 -> its figures by name."""
    found: dict[int, dict[str, float]] = {}
    rows = tx.execute(select(Metric.step, Metric.name, Metric.value).where(Metric.job_id == comparison_id))
    for step, name, value in rows:
        found.setdefault(step, {})[name] = value
    return found


def pictures(tx: Session, comparison_id: str) -> Sequence[Sample]:
    """In the order of models and names; the sheet is one of them."""
    query = select(Sample).where(Sample.job_id == comparison_id).order_by(Sample.step, Sample.name)
    return tx.scalars(query).all()


def given_keys(job: Job, samples: Sequence[Sample], role: str) -> list[str]:
    """Objects with the contents or styles: as they were compared, or as they lie in their dataset until then."""
    compared = {sample.name: sample.key for sample in samples if sample.step == 0}
    return [
        compared.get(given_name(role, place), blob_key(job.tenant_id, entry["sha256"]))
        for place, entry in enumerate(job.config[role], start=1)
    ]


def given_name(role: str, place: int) -> str:
    """Of the sample with a content or style, counted from 1."""
    return f"{role}-{place}"


def using(tx: Session, tenant: str, name: str, version: int) -> str | None:
    """A comparison that has not ended and in which this model takes part."""
    query = select(Job.id, Job.config).where(
        Job.tenant_id == tenant, Job.kind == "train", Job.method == PREFIX, Job.status.not_in(TERMINAL)
    )
    reference = f"{name}@{version}"
    for comparison_id, config in tx.execute(query):
        if any(entry["model"] == reference for entry in config["models"]):
            return str(comparison_id)
    return None
