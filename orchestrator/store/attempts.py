"""What a worker reads about its attempt. What it writes goes through `queue.py`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.states import ACTIVE, TERMINAL, Status
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Attempt, EncoderWeights, Job, Metric


def job_of(tx: Session, ticket: Ticket) -> Job | None:
    """The job, while the ticket counts."""
    return tx.scalar(select(Job).where(Job.id == ticket.job_id, Job.attempt == ticket.attempt, Job.status.in_(ACTIVE)))


def ended_as(tx: Session, ticket: Ticket) -> Status | None:
    """Where this attempt has left the job; None when it is at work, was taken back, or a higher one exists."""
    left = (*TERMINAL, Status.PAUSED)
    found = tx.scalar(
        select(Job.status).where(Job.id == ticket.job_id, Job.attempt == ticket.attempt, Job.status.in_(left))
    )
    return None if found is None else Status(found)


def has_begun(tx: Session, ticket: Ticket, *, actor: str) -> bool:
    """Whether the attempt is running already, in the hands of this actor."""
    began = tx.scalar(
        select(Attempt.started_at)
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Job.id == ticket.job_id,
            Job.status == Status.RUNNING,
            Job.attempt == ticket.attempt,
            Job.lease_owner == actor,
            Attempt.attempt == ticket.attempt,
        )
    )
    return began is not None


def last_terms(tx: Session, job_id: str) -> dict[str, float]:
    """The metrics of the newest step that has any, in the order of their names."""
    newest = select(Metric.step).where(Metric.job_id == job_id).order_by(Metric.step.desc()).limit(1)
    query = select(Metric.name, Metric.value).where(Metric.job_id == job_id, Metric.step == newest.scalar_subquery())
    return {row.name: row.value for row in tx.execute(query.order_by(Metric.name))}


def weights_digest(tx: Session, name: str) -> str | None:
    """sha256 of an encoder's weights in the object store; None where nobody has put them there."""
    return tx.scalar(select(EncoderWeights.sha256).where(EncoderWeights.name == name))
