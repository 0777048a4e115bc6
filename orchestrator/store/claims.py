"""Claims: which job is next, and whether there is room for it.

A claim makes attempt n + 1 and takes the job's room from the ledger in one transaction. What happens to a job
afterwards is `queue.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from orchestrator.states import ACTIVE, Move, Status
from orchestrator.store import events
from orchestrator.store.database import db_now
from orchestrator.store.queue import Ticket, status_event
from orchestrator.store.tables import Attempt, Job, Ledger

BACKFILL_WINDOW = 200  # how far behind the head of the queue a claim looks for a job that fits: its cost stays constant
CANDIDATES = 8  # of them; other dispatchers may hold the first ones at this moment


class Claimed(NamedTuple):
    ticket: Ticket
    kind: str
    method: str
    task: str
    cpus: int  # of each worker
    gpus: int
    workers: int  # that there is room for: between the job's `min_workers` and its `workers`


def claim_next(tx: Session, *, owner: str, lease_s: float) -> Claimed | None:
    """Give the first queued job that fits to `owner` under a new attempt; None when none waits or fits.

    Ingests go first and take no room (no more of them at a time than there are cores), then by priority and age; a job
    that does not fit is passed over for one of the next `BACKFILL_WINDOW`. PostgreSQL passes over rows that another
    transaction holds; SQLite has one writer at a time and needs no row locks.

    lease_s: seconds. Raises nothing of its own.
    """
    room = tx.execute(
        select(Ledger.cpus - Ledger.cpus_taken, Ledger.gpus - Ledger.gpus_taken, Ledger.cpus)
    ).one_or_none()
    if room is None:
        return None
    cpus_free, gpus_free, cpus = room
    job_id = _first_ingest(tx, at_once=max(1, cpus))
    if job_id is None and (cpus_free > 0 or gpus_free > 0):
        job_id = _first_that_fits(tx, cpus_free, gpus_free)
    if job_id is None:
        return None
    claim = (
        update(Job)
        .where(Job.id == job_id, Job.status == Status.QUEUED)
        .values(
            status=Status.STARTING,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_until=db_now() + lease_s,
            events=Job.events + 1,
        )
        .returning(
            Job.attempt, Job.kind, Job.method, Job.task, Job.cpus, Job.gpus, Job.workers, Job.min_workers, Job.events
        )
    )
    row = tx.execute(claim).one_or_none()
    if row is None:
        return None
    workers = granted(row, cpus_free, gpus_free)
    if not _take_room(tx, row.cpus * workers, row.gpus * workers):
        tx.rollback()  # another dispatcher was faster; the job stays where it was
        return None
    tx.add(Attempt(job_id=job_id, attempt=row.attempt, workers=workers, claimed_at=db_now()))
    events.append(tx, job_id, row.attempt, row.events, [status_event(Status.STARTING, Move.CLAIM)])
    return Claimed(Ticket(job_id, row.attempt), row.kind, row.method, row.task, row.cpus, row.gpus, workers)


def granted(asked: Any, cpus_free: int, gpus_free: int) -> int:
    """As many workers as fit, `asked.workers` at most and `asked.min_workers` at least."""
    limits = [free // each for each, free in ((asked.cpus, cpus_free), (asked.gpus, gpus_free)) if each]
    most: int = min([asked.workers, *limits])
    return max(most, int(asked.min_workers))


def _first_ingest(tx: Session, *, at_once: int) -> str | None:
    at_work = select(func.count()).where(Job.status.in_(ACTIVE), Job.kind == "ingest").scalar_subquery()
    query = (
        select(Job.id)
        .where(Job.status == Status.QUEUED, Job.kind == "ingest", Job.not_before <= db_now(), at_work < at_once)
        .order_by(Job.priority.desc(), Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return tx.scalar(query)


def _first_that_fits(tx: Session, cpus_free: int, gpus_free: int) -> str | None:
    # The window as a table of its own: as `id IN (…)` both databases read the whole queue for it.
    head = (
        select(Job.id, (Job.cpus * Job.min_workers).label("cpus"), (Job.gpus * Job.min_workers).label("gpus"))
        .where(Job.status == Status.QUEUED, Job.kind == "train", Job.not_before <= db_now())
        .order_by(Job.priority.desc(), Job.id)
        .limit(BACKFILL_WINDOW)
        .subquery()
    )
    fitting = select(head.c.id).where(head.c.cpus <= cpus_free, head.c.gpus <= gpus_free).limit(CANDIDATES)
    for job_id in tx.scalars(fitting).all():
        free = select(Job.id).where(Job.id == job_id, Job.status == Status.QUEUED).with_for_update(skip_locked=True)
        if tx.scalar(free) is not None:
            return str(job_id)
    return None


def _take_room(tx: Session, cpus: int, gpus: int) -> bool:
    take = (
        update(Ledger)
        .where(Ledger.cpus_taken + cpus <= Ledger.cpus, Ledger.gpus_taken + gpus <= Ledger.gpus)
        .values(cpus_taken=Ledger.cpus_taken + cpus, gpus_taken=Ledger.gpus_taken + gpus)
        .returning(Ledger.id)
    )
    return tx.execute(take).one_or_none() is not None


def set_room(tx: Session, *, cpus: int, gpus: int) -> None:
    """Tell the ledger how large the cluster is now; what jobs have taken stays, even where it is more than that."""
    changed = tx.execute(
        update(Ledger).values(cpus=cpus, gpus=gpus, seen_at=db_now()).returning(Ledger.id)
    ).one_or_none()
    if changed is None:
        tx.add(Ledger(id=1, cpus=cpus, gpus=gpus, cpus_taken=0, gpus_taken=0, seen_at=db_now()))
