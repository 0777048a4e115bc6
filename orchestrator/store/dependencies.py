"""Who waits for whom, and which endings still have consequences to be drawn.

The transaction that ends a job writes an `Ending` if anybody waits for it (`queue.move`); any dispatcher takes it from
there (`consequences.py`). An edge is looked up by the job that has ended, so neither costs more when the queue is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlalchemy import Table, Text, bindparam, delete, exists, insert, or_, select
from sqlalchemy.orm import Session

from orchestrator.store.tables import Dependency, Ending, Job

# Built once: every job's end runs it.
_ended = bindparam("job", type_=Text)
NOTE_ENDING = insert(cast(Table, Ending.__table__)).from_select(
    ["job_id"],
    select(_ended).where(
        or_(
            exists().where(Dependency.awaited == _ended),
            exists().where(Job.id == _ended, Job.rung.is_not(None)),
        )
    ),
)
INSERT_DEPENDENCY = insert(cast(Table, Dependency.__table__))


def locked(tx: Session, tenant: str, job_ids: Sequence[str]) -> dict[str, Job]:
    """A tenant's training jobs by id, none of which ends before this transaction does.

    Whoever makes an edge holds the awaited job's row: the transaction that ends it comes before, and is seen here, or
    after, and sees the edge.
    """
    query = select(Job).where(Job.id.in_(sorted(job_ids)), Job.tenant_id == tenant, Job.kind == "train")
    return {job.id: job for job in tx.scalars(query.order_by(Job.id).with_for_update(read=True))}


def next_ending(tx: Session, *, after: str = "") -> str | None:
    """A job whose end has consequences that nobody else is drawing at this moment; those with ids above `after`."""
    query = select(Ending.job_id).where(Ending.job_id > after).order_by(Ending.job_id).limit(1)
    return tx.scalar(query.with_for_update(skip_locked=True))


def waiting_for(tx: Session, job_id: str, *, limit: int) -> list[str]:
    """Jobs that wait for this one, in the order of their ids."""
    query = select(Dependency.job_id).where(Dependency.awaited == job_id).order_by(Dependency.job_id)
    return list(tx.scalars(query.limit(limit)))


def drop_edges(tx: Session, awaited: str, job_ids: Sequence[str]) -> None:
    """What had to be done for these jobs is done."""
    tx.execute(delete(Dependency).where(Dependency.awaited == awaited, Dependency.job_id.in_(job_ids)))


def drop_ending(tx: Session, job_id: str) -> None:
    tx.execute(delete(Ending).where(Ending.job_id == job_id))
