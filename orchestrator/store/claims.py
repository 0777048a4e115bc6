"""Claims: the policy's decisions, carried out.

A claim makes attempt n + 1 and takes the job's room from the ledger and from its tenant's quota in one transaction. It
is decided (`scheduling.policy`) about what was seen a moment before, and counts only if nobody has claimed since: the
ledger counts claims. What happens to a job afterwards is `queue.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from orchestrator.scheduling import policy
from orchestrator.scheduling.nodes import POOL, Places
from orchestrator.scheduling.policy import LOOK_AHEAD, Grant
from orchestrator.scheduling.shares import Room
from orchestrator.states import ACTIVE, Move, Status
from orchestrator.store import accounts, events, queue, scenes, webhooks
from orchestrator.store.database import db_now
from orchestrator.store.queue import Moved, Ticket, status_event
from orchestrator.store.scenes import CLASSES, Classes, Look
from orchestrator.store.tables import Attempt, Job, Ledger

TRIES = 8  # of a claim, when other dispatchers claim at the same time


class Claimed(NamedTuple):
    ticket: Ticket
    kind: str
    method: str
    task: str
    cpus: int  # of each worker
    gpus: int
    workers: int  # that there is room for: between the job's `min_workers` and its `workers`
    warm: str | None  # the warm worker that it goes to, without room of its own
    nodes: tuple[str, ...]  # Ray's ids of the nodes of its workers, by rank; empty: any


def nobody_warm() -> str | None:
    return None


def claim_next(
    tx: Session,
    *,
    owner: str,
    lease_s: float,
    classes: Classes = CLASSES,
    idle_warm: Callable[[], str | None] = nobody_warm,
) -> Claimed | None:
    """Give the next job to `owner` under a new attempt; None when none waits that may start.

    Ingests go first and take no room (no more of them at a time than there are cores), then the policy decides.
    PostgreSQL passes over rows that another transaction holds; SQLite has one writer at a time and needs no row locks.

    lease_s: seconds. idle_warm: the name of a warm worker that nobody works on. Raises nothing of its own.
    """
    elsewhere: set[str] = set()  # rows that others hold at this moment
    for _ in range(TRIES):
        look = scenes.look(tx, classes, width=LOOK_AHEAD, ready_only=True)
        if look.turn is None:
            return None
        ingest = _first_ingest(tx, at_once=max(1, look.scene.total.cpus))
        if ingest is not None:
            if _take_turn(tx, look.turn, 0, 0, overdue=False):
                return _claimed(tx, ingest, owner, lease_s, workers=1, warm=idle_warm(), places={})
            continue
        for lane in look.scene.lanes:
            lane.jobs = [job for job in lane.jobs if job.id not in elsewhere]
        warm = idle_warm() if any(lane.short and lane.jobs for lane in look.scene.lanes) else None
        look.scene.warm = 0 if warm is None else 1
        grant = _decide(tx, look, classes).grant
        if grant is None:
            return None
        # What a try has locked is let go with it: two that hold a tenant each and want the other's would wait for ever.
        with tx.begin_nested() as one_try:
            if not _lock(tx, grant.job.id):
                elsewhere.add(grant.job.id)
            elif _take_for(tx, look, grant):
                on = warm if grant.warm else None
                return _claimed(tx, grant.job.id, owner, lease_s, workers=grant.workers, warm=on, places=grant.places)
            one_try.rollback()
    return None


def make_room(tx: Session, *, classes: Classes = CLASSES) -> list[Moved]:
    """Ask jobs to stop that the next one preempts, if it does. Nothing is changed where others claim meanwhile."""
    look = scenes.look(tx, classes, width=LOOK_AHEAD, ready_only=True)
    if look.turn is None or not any(lane.preempts for lane in look.scene.lanes):
        return []
    victims = _decide(tx, look, classes).victims
    moved = [queue.move(tx, job_id, Move.PREEMPT, preemptions=Job.preemptions + 1) for job_id in victims]
    if victims and not _take_turn(tx, look.turn, 0, 0, overdue=False):
        tx.rollback()
        return []
    return [one for one in moved if one is not None]


def _decide(tx: Session, look: Look, classes: Classes) -> policy.Decision:
    if policy.needs_running(look.scene):
        look.scene.running = scenes.running(tx, classes, look.scene.now)
    return policy.decide(look.scene)


def _first_ingest(tx: Session, *, at_once: int) -> str | None:
    at_work = select(func.count()).where(Job.status.in_(ACTIVE), Job.kind == "ingest").scalar_subquery()
    query = (
        select(Job.id)
        .where(Job.status == Status.QUEUED, Job.kind == "ingest", Job.not_before <= db_now(), at_work < at_once)
        .order_by(Job.lane, Job.deadline, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return tx.scalar(query)


def _lock(tx: Session, job_id: str) -> bool:
    free = select(Job.id).where(Job.id == job_id, Job.status == Status.QUEUED).with_for_update(skip_locked=True)
    return tx.scalar(free) is not None


def _take_for(tx: Session, look: Look, grant: Grant) -> bool:
    """Take the room of a job from its tenant's quota and, unless it goes to a warm worker, from the ledger."""
    room = Room(grant.lane.cpus * grant.workers, grant.lane.gpus * grant.workers)
    account = accounts.locked(tx, grant.lane.tenant)
    if not account.may_hold(*room):
        return False
    taken = Room(0, 0) if grant.warm else room
    if not _take_turn(tx, look.turn, *taken, overdue=grant.overdue):
        return False
    accounts.hold(tx, grant.lane.tenant, account, *room)
    return True


def _take_turn(tx: Session, turn: int | None, cpus: int, gpus: int, *, overdue: bool) -> bool:
    """Take room from the ledger, if nobody has claimed since `turn` was read."""
    if turn is None:
        return False
    values = {"turn": turn + 1, "cpus_taken": Ledger.cpus_taken + cpus, "gpus_taken": Ledger.gpus_taken + gpus}
    if overdue:
        values["overdue_turn"] = turn + 1
    fits = [Ledger.turn == turn]
    if cpus:
        fits.append(Ledger.cpus_taken + cpus <= Ledger.cpus)
    if gpus:
        fits.append(Ledger.gpus_taken + gpus <= Ledger.gpus)
    take = update(Ledger).where(*fits).values(values).returning(Ledger.id)
    return tx.execute(take).one_or_none() is not None


CLAIMED = (
    Job.attempt, Job.kind, Job.method, Job.task, Job.cpus, Job.gpus, Job.events, Job.tenant_id, Job.name, Job.webhook,
)  # fmt: skip


def _claimed(
    tx: Session, job_id: str, owner: str, lease_s: float, *, workers: int, warm: str | None, places: Places
) -> Claimed:
    """The new attempt of a job whose row is held and whose room is taken."""
    known = {node: there for node, there in places.items() if node != POOL}
    claim = (
        update(Job)
        .where(Job.id == job_id)
        .values(
            status=Status.STARTING,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_until=db_now() + lease_s,
            events=Job.events + 1,
        )
        .returning(*CLAIMED)
    )
    row = tx.execute(claim).one()
    tx.add(
        Attempt(
            job_id=job_id, attempt=row.attempt, workers=workers, warm=warm is not None, nodes=known or None,
            claimed_at=db_now(),
        )
    )  # fmt: skip
    event = status_event(Status.STARTING, Move.CLAIM)
    events.append(tx, job_id, row.attempt, row.events, [event])
    webhooks.announce(tx, job_id, row, event)
    ticket, nodes = Ticket(job_id, row.attempt), tuple(node for node, there in known.items() for _ in range(there))
    return Claimed(ticket, row.kind, row.method, row.task, row.cpus, row.gpus, workers, warm, nodes)


def set_room(
    tx: Session, *, cpus: int, gpus: int, warm: int = 0, nodes: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Tell the ledger how large the cluster is now; what jobs have taken stays, even where it is more than that.

    warm: warm workers that are ready. nodes: cores and GPUs of each, where there are several that make up the sums.
    """
    told = None if nodes is None else {node: list(room) for node, room in nodes.items()}
    seen = {"cpus": cpus, "gpus": gpus, "warm": warm, "nodes": told, "seen_at": db_now()}
    if tx.execute(update(Ledger).values(seen).returning(Ledger.id)).one_or_none() is None:
        tx.add(Ledger(id=1, cpus_taken=0, gpus_taken=0, **seen))
