"""Deadlines: a job that has not ended by then expires. A running one is stopped by its worker, as by its timeout."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.states import ErrorType, Move, sources
from orchestrator.store import queue
from orchestrator.store.database import db_now
from orchestrator.store.queue import Moved
from orchestrator.store.tables import Job

AT_ONCE = 200
MESSAGE = "its deadline has passed before it had ended"


def passed(tx: Session) -> list[str]:
    """Jobs without a worker whose deadline has passed, the longest ago first."""
    query = (
        select(Job.id)
        .where(Job.deadline < db_now(), Job.finished_at.is_(None), Job.status.in_(sources(Move.LAPSE)))
        .order_by(Job.deadline)
        .limit(AT_ONCE)
    )
    return list(tx.scalars(query))


def lapse(tx: Session, job_id: str) -> Moved | None:
    """End a job whose deadline has passed; None when a worker has it, or it has ended."""
    attempt = tx.scalar(select(Job.attempt).where(Job.id == job_id))
    error = {"type": ErrorType.TIMEOUT.value, "message": MESSAGE, "attempt": attempt}
    return queue.move(tx, job_id, Move.LAPSE, error=error)


def seconds_left(tx: Session, job_id: str) -> float | None:
    """Until a job's deadline by the database's clock; None without one."""
    return tx.scalar(select(Job.deadline - db_now()).where(Job.id == job_id))
