"""How much room jobs would take, for those who can make room."""

from __future__ import annotations

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from orchestrator.states import ACTIVE, Status
from orchestrator.store.tables import Attempt, Job

LOOK_AHEAD = 200  # waiting jobs; a cluster that has grown for these sees the next ones

Bundle = dict[str, int]


def bundles(tx: Session) -> list[Bundle]:
    """One bundle of Ray's resources for each worker of what is at work, then of what waits, in the order of age."""
    held = (
        select(Job.cpus, Job.gpus, Attempt.workers)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .where(Job.status.in_(ACTIVE), Job.kind == "train")
        .order_by(Job.id)
    )
    wanted = (
        select(Job.cpus, Job.gpus, Job.workers)
        .where(Job.status == Status.QUEUED, Job.kind == "train")
        .order_by(Job.id)
        .limit(LOOK_AHEAD)
    )
    rows = [*tx.execute(held), *tx.execute(wanted)]
    return [_bundle(cpus, gpus) for cpus, gpus, workers in rows for _ in range(workers)]


def _bundle(cpus: int, gpus: int) -> Bundle:
    return {name: count for name, count in (("CPU", cpus), ("GPU", gpus)) if count}
