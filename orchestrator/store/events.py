"""Events: the history of a job, rows with gapless ids per job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from orchestrator.store.database import db_now
from orchestrator.store.tables import Event

# Built once, and beside the ORM: every change of every job goes through here. The clock is SQL's own.
INSERT_EVENT = insert(cast(Table, Event.__table__)).values(at=db_now())


class NewEvent(NamedTuple):
    event: str  # status | metric | log | checkpoint | sample
    body: dict[str, Any]


def append(tx: Session, job_id: str, attempt: int, newest_id: int, events: Sequence[NewEvent]) -> None:
    """Write `events`, the last of which has id `newest_id`.

    The ids were drawn by `UPDATE jobs SET events = events + n … RETURNING events` earlier in the same transaction. That
    update holds the job's row until the commit, so events become visible in the order of their ids, without a gap.
    """
    if not events:
        return
    first = newest_id - len(events) + 1
    rows = [
        {"job_id": job_id, "id": first + i, "attempt": attempt, "event": new.event, "body": new.body}
        for i, new in enumerate(events)
    ]
    tx.execute(INSERT_EVENT, rows)


def begin(tx: Session, firsts: Sequence[tuple[str, NewEvent]]) -> None:
    """The first event of each of these new jobs."""
    tx.execute(
        INSERT_EVENT,
        [{"job_id": job_id, "id": 1, "attempt": 0, "event": new.event, "body": new.body} for job_id, new in firsts],
    )


def after(tx: Session, job_id: str, last_id: int, *, limit: int) -> list[Event]:
    """Events of a job with ids above `last_id`, in order, at most `limit`."""
    query = select(Event).where(Event.job_id == job_id, Event.id > last_id).order_by(Event.id).limit(limit)
    return list(tx.scalars(query))


def log_lines(tx: Session, job_id: str, last_id: int, *, limit: int) -> list[Event]:
    """The `log` events of a job with ids above `last_id`."""
    query = (
        select(Event)
        .where(Event.job_id == job_id, Event.event == "log", Event.id > last_id)
        .order_by(Event.id)
        .limit(limit)
    )
    return list(tx.scalars(query))
