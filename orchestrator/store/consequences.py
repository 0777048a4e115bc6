"""What follows from a job's end for those that wait for it: one small transaction at a time, by any dispatcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from orchestrator.states import ErrorType, Move, Status
from orchestrator.store import dependencies, models, queue, sweeps
from orchestrator.store.queue import Moved
from orchestrator.store.tables import Ending, Job

SLICE = 100  # jobs whose consequence one transaction draws


def draw(tx: Session) -> list[Moved] | None:
    """Draw the consequences of one job's end, for `SLICE` jobs at most; None when nothing is to be done.

    Whoever holds the ending's row draws them; a crash before the commit leaves everything to the next one.
    """
    ended = dependencies.next_ending(tx)
    if ended is None:
        return None
    waiting = dependencies.waiting_for(tx, ended, limit=SLICE)
    job = tx.get(Job, ended)
    if job is not None and job.status == Status.SUCCEEDED:
        moved = _released(tx, job, waiting)
    else:
        moved = [m for job_id in waiting if (m := _given_up(tx, job_id, ended, job.status if job else None))]
    dependencies.drop_edges(tx, ended, waiting)
    if len(waiting) < SLICE:
        dependencies.drop_ending(tx, ended)
        if job is not None and job.rung is not None and job.group_id is not None:
            moved += [Moved(job_id, Status.QUEUED, 0) for job_id in sweeps.promote(tx, job.group_id)]
    return moved


def any_left(tx: Session) -> bool:
    """Whether an end still has consequences, whoever may be drawing them."""
    return tx.scalar(select(Ending.job_id).limit(1)) is not None


def _released(tx: Session, ended: Job, waiting: Sequence[str]) -> list[Moved]:
    """One blocker fewer; those that have none left are queued. Whoever starts from the model gets it pinned."""
    blocked = (Job.id.in_(waiting), Job.status == Status.BLOCKED)
    tx.scalars(select(Job.id).where(*blocked).order_by(Job.id).with_for_update()).all()  # in order: no deadlock
    fewer = update(Job).where(*blocked).values(blockers=Job.blockers - 1)
    rows = tx.execute(fewer.returning(Job.id, Job.blockers, Job.base_job)).all()
    pin = _model_of(tx, ended.id) if any(row.base_job == ended.id for row in rows) else None
    moved = []
    for row in sorted(rows):
        if row.base_job != ended.id:
            done = _queued(tx, row.id) if row.blockers == 0 else None
        elif pin is None:
            done = _given_up(tx, row.id, ended.id, "succeeded, but its model was deleted")
        else:
            tx.execute(update(Job).where(Job.id == row.id).values(base_model=pin))
            done = _queued(tx, row.id) if row.blockers == 0 else None
        if done is not None:
            moved.append(done)
    return moved


def _queued(tx: Session, job_id: str) -> Moved | None:
    return queue.move(tx, job_id, Move.UNBLOCK)


def _given_up(tx: Session, job_id: str, awaited: str, status: str | None) -> Moved | None:
    """A job that waits for one that was cancelled is cancelled, for one that failed or is gone it has failed."""
    how = "was deleted" if status is None else f"ended as {status}"
    error = {"type": ErrorType.DEPENDENCY.value, "message": f"{awaited}, which this job depends on, {how}"}
    return queue.move(tx, job_id, Move.CANCEL if status == Status.CANCELLED else Move.DROP, error=error)


def _model_of(tx: Session, job_id: str) -> dict[str, Any] | None:
    model = models.of_job(tx, job_id)
    return None if model is None else models.pin(model)
