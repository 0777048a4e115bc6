"""Groups: the jobs that one request made, as one thing to look at and to cancel.

A job that was done again counts once: as its newest retry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, exists, func, insert, select, update
from sqlalchemy.orm import Session, aliased

from orchestrator.ids import is_id
from orchestrator.states import GRANTED, TERMINAL, Move, Status
from orchestrator.store import queue
from orchestrator.store.database import db_now
from orchestrator.store.queue import Moved
from orchestrator.store.tables import Group, Job

INSERT_GROUP = insert(cast(Table, Group.__table__)).values(created_at=db_now())
SLICE = 100  # jobs that one transaction cancels


def create(tx: Session, group_id: str, tenant: str, *, kind: str, name: str, spec: Mapping[str, Any]) -> None:
    """kind: fanout or sweep, as the id begins."""
    tx.execute(INSERT_GROUP, {"id": group_id, "tenant_id": tenant, "kind": kind, "name": name, "spec": dict(spec)})


def find(tx: Session, tenant: str, kind: str, group_id: str) -> Group | None:
    """A tenant's group; None for what is another tenant's, another kind or no id at all."""
    if not is_id(kind, group_id):
        return None
    return tx.scalars(select(Group).where(Group.id == group_id, Group.tenant_id == tenant)).one_or_none()


def held(tx: Session, group_id: str) -> Group | None:
    """The group, nobody else changing it until this transaction ends."""
    return tx.scalars(select(Group).where(Group.id == group_id).with_for_update()).one_or_none()


def page(tx: Session, tenant: str, kind: str, *, before: str | None, limit: int) -> list[Group]:
    """Newest first, those with ids below `before`."""
    query = select(Group).where(Group.tenant_id == tenant, Group.kind == kind)
    if before is not None:
        query = query.where(Group.id < before)
    return list(tx.scalars(query.order_by(Group.id.desc()).limit(limit)))


def counts(tx: Session, group_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Group -> status -> how many of its jobs."""
    query = (
        select(Job.group_id, Job.status, func.count())
        .where(Job.group_id.in_(group_ids), not_done_again())
        .group_by(Job.group_id, Job.status)
    )
    found: dict[str, dict[str, int]] = {group_id: {} for group_id in group_ids}
    for group_id, status, count in tx.execute(query):
        assert group_id is not None  # it is one of `group_ids`
        found[group_id][status] = count
    return {group_id: dict(sorted(by_status.items())) for group_id, by_status in found.items()}


def not_done_again() -> ColumnElement[bool]:
    """Of a job: no retry of it is in its group."""
    again = aliased(Job)
    same = (again.group_id == Job.group_id, again.rung.is_not_distinct_from(Job.rung))
    return ~exists().where(again.parent == Job.id, *same)


def mark_cancelled(tx: Session, group_id: str) -> None:
    """From now on the group makes no more jobs."""
    tx.execute(
        update(Group).where(Group.id == group_id).values(cancelled_at=func.coalesce(Group.cancelled_at, db_now()))
    )


def cancel_some(tx: Session, group_id: str) -> list[Moved]:
    """Cancel the next `SLICE` jobs that go on; an empty list when none does."""
    over = (*TERMINAL, *GRANTED[Move.CANCEL])
    query = select(Job.id).where(Job.group_id == group_id, Job.status.not_in(over)).order_by(Job.id).limit(SLICE)
    return [moved for job_id in tx.scalars(query).all() if (moved := queue.move(tx, job_id, Move.CANCEL)) is not None]


def is_over(by_status: Mapping[str, int]) -> bool:
    """Whether every job has ended."""
    return all(Status(status) in TERMINAL for status in by_status)
