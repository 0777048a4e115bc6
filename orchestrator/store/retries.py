"""Jobs that do another one again: from where, and in what it is like the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.states import Status
from orchestrator.store import dependencies, queue
from orchestrator.store.jobs import NewJob
from orchestrator.store.tables import Job

ALIKE = (
    "method", "task", "name", "datasets", "style_image", "base_model", "base_job", "cpus", "gpus", "workers",
    "min_workers", "seed", "publish_as", "tags", "class_", "priority", "max_retries", "timeout_s", "keep_checkpoints",
    "webhook", "group_id", "trial", "rung",
)  # fmt: skip


def again(
    parent: Job,
    job_id: str,
    *,
    config: Mapping[str, Any],
    total_steps: int,
    start_from: Mapping[str, Any] | None,
    **changes: Any,
) -> NewJob:
    """A job like `parent`, but for these settings, from a checkpoint or the start."""
    alike = {name: getattr(parent, name) for name in ALIKE} | changes
    facts = {"config": config, "total_steps": total_steps, "start_from": start_from, "parent": parent.id}
    return NewJob(job_id, parent.tenant_id, **(alike | facts))


def start_of_retry(tx: Session, parent: Job) -> dict[str, Any] | None:
    """The newest ready checkpoint of `parent`, or the one that it started from itself; None when there is neither."""
    ready = queue.ready_checkpoints(tx, parent.id)
    if not ready:
        start = parent.start_from
        return start if start is not None and tx.get(Job, start["job"]) is not None else None
    newest = ready[0]
    return {
        "job": newest.job_id,
        "attempt": newest.attempt,
        "step": newest.step,
        "prefix": newest.prefix,
        "manifest_sha256": newest.manifest_sha256,
    }


def retry_of(tx: Session, job_id: str) -> str | None:
    """The newest job that does this one again."""
    return tx.scalar(select(Job.id).where(Job.parent == job_id).order_by(Job.id.desc()).limit(1))


def newest_retry(tx: Session, tenant: str, job_id: str) -> Job | None:
    """The job itself if it has succeeded or nobody has done it again, else the last of its retries; it is held until
    this transaction ends. None when it is gone."""
    found = dependencies.locked(tx, tenant, [job_id]).get(job_id)
    while found is not None and found.status != Status.SUCCEEDED:
        again = retry_of(tx, found.id)
        if again is None:
            break
        found = dependencies.locked(tx, tenant, [again]).get(again)
    return found
