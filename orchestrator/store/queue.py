"""The queue: who may work on a job, and what a worker may write.

SQL is the only truth. A claim makes attempt n + 1 and takes the job's room in the same transaction; every later write
names its attempt and changes nothing once a higher one exists or the job has left the active states. Every change of
status is one conditional `UPDATE` (over `states.MOVES`) and one event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import and_, case, delete, func, select, update
from sqlalchemy.orm import Session

from orchestrator.states import ACTIVE, MOVES, NEVER_RETRIED, ErrorType, Move, Status, phase_of, sources
from orchestrator.store import accounts, dependencies, events, removal, webhooks
from orchestrator.store.database import db_now
from orchestrator.store.events import NewEvent
from orchestrator.store.inserts import upsert
from orchestrator.store.tables import Attempt, Checkpoint, DatasetVersion, Job, Ledger, Metric, ModelVersion, Sample

BACKOFF_S = (0.0, 1.0, 5.0, 30.0, 120.0)  # wait before the claim after the n-th charged failure


class Ticket(NamedTuple):
    """The right to work on a job, until somebody else holds a higher attempt."""

    job_id: str
    attempt: int


class ActiveJob(NamedTuple):
    ticket: Ticket
    status: Status
    actor: str | None
    lease_owner: str | None  # the actor once the attempt has begun, before that the dispatcher that placed it
    lease_until: float | None
    workers: int = 1  # that the claim took room for


class Moved(NamedTuple):
    """What a change of status left behind."""

    job_id: str
    status: Status
    attempt: int


@dataclass(frozen=True)
class Batch:
    """What a worker has to say at once: rows in order, and how far it is."""

    step: int
    images_per_second: float | None = None
    points: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)  # metric -> (step, value)
    log: Sequence[Mapping[str, Any]] = ()  # {"at", "level", "text"}
    checkpoints: Sequence[Mapping[str, Any]] = ()  # {"step", "prefix", "manifest_sha256", "files", "bytes"}
    samples: Sequence[Mapping[str, Any]] = ()  # {"step", "name", "width", "height", "key"}


# --- who works --------------------------------------------------------------------------------------------------------


def place(tx: Session, ticket: Ticket, actor: str) -> None:
    """Note which actor will be called for an attempt, before it is."""
    mine = (Attempt.job_id == ticket.job_id, Attempt.attempt == ticket.attempt)
    tx.execute(update(Attempt).where(*mine).values(actor=actor))


def active_jobs(tx: Session) -> list[ActiveJob]:
    """Every job that an attempt is at work on, or should be."""
    query = (
        select(Job.id, Job.attempt, Job.status, Attempt.actor, Job.lease_owner, Job.lease_until, Attempt.workers)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .where(Job.status.in_(ACTIVE))
    )
    return [
        ActiveJob(Ticket(r.id, r.attempt), Status(r.status), r.actor, r.lease_owner, r.lease_until, r.workers)
        for r in tx.execute(query)
    ]


def busy_actors(tx: Session) -> set[str]:
    """The actors that the newest attempts of active jobs were given to."""
    return {job.actor for job in active_jobs(tx) if job.actor is not None}


# --- changes of status ------------------------------------------------------------------------------------------------


MOVED = (
    Job.status, Job.attempt, Job.events, Job.cpus, Job.gpus, Job.kind, Job.tenant_id, Job.config, Job.name, Job.webhook,
)  # fmt: skip


def move(
    tx: Session,
    job_id: str,
    move: Move,
    *,
    attempt: int | None = None,
    outcome: str | None = None,
    error: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    **values: Any,
) -> Moved | None:
    """Make one move of `states.MOVES`; None, and nothing changed, where it cannot happen now.

    attempt: of the worker or dispatcher that asks; None for a user, whose wish is for the job and not for an attempt.
    outcome: what becomes of the attempt, when this ends it. error: recorded with the attempt, and with the job.
    body: more fields of the event. values: more columns of the job.
    """
    if move in (Move.RESUME, Move.UNBLOCK):
        values["queued_at"] = db_now()  # what came before was no waiting for room
    allowed = sources(move)
    target = case({s.value: MOVES[s, move].value for s in allowed}, value=Job.status)
    change = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(allowed), *([] if attempt is None else [Job.attempt == attempt]))
        .values(status=target, events=Job.events + 1, **({"error": dict(error)} if error else {}), **values)
        .returning(*MOVED)
    )
    row = tx.execute(change).one_or_none()
    if row is None:
        return None
    status = Status(row.status)
    if row.kind == "ingest" and status is Status.FAILED and error is not None:
        _reject_version(tx, row.tenant_id, row.config, str(error["message"]))
    if move in ENDS_ATTEMPT:
        made_room = move is Move.STOP and status is Status.QUEUED
        _end_attempt(tx, job_id, row, status, outcome or ("preempted" if made_room else status.value), error)
    elif phase_of(status) == "terminal":
        tx.execute(update(Job).where(Job.id == job_id).values(finished_at=db_now()))
    if phase_of(status) == "terminal":
        tx.execute(dependencies.NOTE_ENDING, {"job": job_id})
    extra = dict(body or {}) | ({"error": dict(error)} if error else {})
    event = status_event(status, move, extra)
    events.append(tx, job_id, row.attempt, row.events, [event])
    webhooks.announce(tx, job_id, row, event)
    return Moved(job_id, status, row.attempt)


def _reject_version(tx: Session, tenant: str, wanted: Mapping[str, Any], message: str) -> None:
    """An ingest that has failed for good leaves no version that seems to be on its way."""
    version = (
        DatasetVersion.tenant_id == tenant,
        DatasetVersion.name == wanted["name"],
        DatasetVersion.version == wanted["version"],
        DatasetVersion.status == "ingesting",
    )
    tx.execute(update(DatasetVersion).where(*version).values(status="rejected", error=f"the ingest failed: {message}"))


ENDS_ATTEMPT = (Move.FINISH, Move.FAIL, Move.REQUEUE, Move.STOP, Move.EXPIRE)  # from active states only


def _end_attempt(
    tx: Session, job_id: str, row: Any, status: Status, outcome: str, error: Mapping[str, Any] | None
) -> None:
    """Give the room back, close the attempt's row and add its time to the job's."""
    ended = (
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == row.attempt)
        .values(outcome=outcome, finished_at=db_now(), error=dict(error) if error else None)
        .returning(Attempt.workers, Attempt.warm, func.coalesce(Attempt.finished_at - Attempt.started_at, 0.0))
    )
    workers, warm, lasted_s = tx.execute(ended).one()
    cpus, gpus = row.cpus * workers, row.gpus * workers
    accounts.give_back(tx, row.tenant_id, cpus, gpus)
    if not warm:
        tx.execute(update(Ledger).values(cpus_taken=Ledger.cpus_taken - cpus, gpus_taken=Ledger.gpus_taken - gpus))
    seconds = max(0.0, lasted_s or 0.0)  # a clock set back must not shorten the job's time
    values: dict[str, Any] = {"lease_owner": None, "lease_until": None, "running_s": Job.running_s + seconds}
    if phase_of(status) == "terminal":
        values["finished_at"] = db_now()
    tx.execute(update(Job).where(Job.id == job_id).values(**values))


def status_event(status: Status, move: Move, extra: Mapping[str, Any] | None = None) -> NewEvent:
    return NewEvent(
        "status", {"status": status.value, "phase": phase_of(status).value, "reason": move.value, **(extra or {})}
    )


# --- what a worker writes ---------------------------------------------------------------------------------------------


def begin(
    tx: Session, ticket: Ticket, *, actor: str, node: str, pid: int, resumed_from: int, total_steps: int, lease_s: float
) -> Moved | None:
    """`starting` to `running`; metrics and samples beyond the step that the attempt resumes from are dropped.

    None when the job is no longer this attempt's to start: superseded, or a stop was asked for before the start.
    """
    moved = move(
        tx,
        ticket.job_id,
        Move.BEGIN,
        attempt=ticket.attempt,
        body={"resumed_from": resumed_from},
        lease_owner=actor,
        lease_until=db_now() + lease_s,
        step=resumed_from,
        total_steps=total_steps,
        started_at=func.coalesce(Job.started_at, db_now()),
    )
    if moved is None:
        return None
    job_id = ticket.job_id
    tx.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == ticket.attempt)
        .values(actor=actor, node=node, pid=pid, resumed_from=resumed_from, started_at=db_now())
    )
    tx.execute(delete(Metric).where(Metric.job_id == job_id, Metric.step > resumed_from))
    tx.execute(delete(Sample).where(Sample.job_id == job_id, Sample.step > resumed_from))
    return moved


def record(tx: Session, ticket: Ticket, batch: Batch, *, lease_s: float) -> Status | None:
    """Write a worker's batch and renew its lease; the job's status now, so that a wish to stop reaches the worker.

    None when the ticket no longer counts: nothing was written, and nothing will be. The same batch may come twice:
    metrics, checkpoints and samples overwrite themselves.
    """
    news = _events_of(batch)
    renewal = (
        update(Job)
        .where(_holds(ticket))
        .values(
            lease_until=db_now() + lease_s,
            step=batch.step,
            images_per_second=func.coalesce(batch.images_per_second, Job.images_per_second),
            events=Job.events + len(news),
        )
        .returning(Job.status, Job.events)
    )
    row = tx.execute(renewal).one_or_none()
    if row is None:
        return None
    events.append(tx, ticket.job_id, ticket.attempt, row.events, news)
    job = {"job_id": ticket.job_id}
    points = [job | {"name": n, "step": s, "value": v} for n, series in batch.points.items() for s, v in series]
    upsert(tx, Metric, points)
    mine = job | {"attempt": ticket.attempt}
    now = tx.scalar(select(db_now()))
    upsert(tx, Checkpoint, [mine | {"status": "ready", "created_at": now} | dict(c) for c in batch.checkpoints])
    upsert(tx, Sample, [mine | dict(s) for s in batch.samples])
    return Status(row.status)


def _events_of(batch: Batch) -> list[NewEvent]:
    """Metrics before the checkpoint that was made after them."""
    news = []
    if any(batch.points.values()):
        news.append(NewEvent("metric", {"points": {name: [list(p) for p in ps] for name, ps in batch.points.items()}}))
    if batch.log:
        news.append(NewEvent("log", {"lines": [dict(line) for line in batch.log]}))
    news += [NewEvent("sample", dict(sample)) for sample in batch.samples]
    news += [NewEvent("checkpoint", {"status": "ready"} | dict(c)) for c in batch.checkpoints]
    return news


def finish(tx: Session, ticket: Ticket, model: ModelVersion | None) -> Moved | None:
    """Publish and succeed in one transaction; None when the ticket no longer counts: nothing was published then.

    model: with version 0, which becomes the next one of its name; None for an ingest. Two jobs that publish under one
    name at the same moment collide on the version's key (IntegrityError): repeat the transaction.
    """
    values: dict[str, Any] = {}
    if model is not None:
        newest = select(func.coalesce(func.max(ModelVersion.version), 0)).where(
            ModelVersion.tenant_id == model.tenant_id, ModelVersion.name == model.name
        )
        retired = removal.retired(tx, model.tenant_id, removal.MODEL, model.name)
        model.version = max(tx.scalar(newest) or 0, retired) + 1
        model.bytes = sum(file["size"] for file in model.files)
        values = {"model_version": model.version}
    body = {"model": f"{model.name}@{model.version}"} if model is not None else {}
    moved = move(tx, ticket.job_id, Move.FINISH, attempt=ticket.attempt, body=body, **values)
    if moved is not None and model is not None:
        tx.add(model)
        tx.flush()
    return moved


def stop(tx: Session, ticket: Ticket) -> Moved | None:
    """The worker has done what a pause or cancel asked for (or nobody is left to do it)."""
    return move(tx, ticket.job_id, Move.STOP, attempt=ticket.attempt)


def fail(tx: Session, ticket: Ticket, error: ErrorType, message: str) -> Moved | None:
    """End an attempt by an error of its own: retried while `max_retries` allows and a retry could help."""
    job = tx.execute(select(Job.charged, Job.max_retries).where(_holds(ticket))).one_or_none()
    if job is None:
        return None
    told = {"type": error.value, "message": message, "attempt": ticket.attempt}
    if error is ErrorType.TIMEOUT:
        return move(tx, ticket.job_id, Move.EXPIRE, attempt=ticket.attempt, error=told)
    if error in NEVER_RETRIED or job.charged >= job.max_retries:
        return move(tx, ticket.job_id, Move.FAIL, attempt=ticket.attempt, error=told, charged=job.charged + 1)
    return _retry(tx, ticket, told, outcome="failed", charged=job.charged + 1)


def lost(tx: Session, ticket: Ticket, message: str) -> Moved | None:
    """End an attempt whose process is gone or silent. It is charged only if it brought no new checkpoint."""
    job = tx.execute(select(Job.charged, Job.max_retries, Job.status).where(_holds(ticket))).one_or_none()
    if job is None:
        return None
    progress = tx.scalar(
        select(func.count()).where(Checkpoint.job_id == ticket.job_id, Checkpoint.attempt == ticket.attempt)
    )
    charged = job.charged + (0 if progress or job.status == Status.PREEMPTING else 1)
    told = {"type": ErrorType.LOST.value, "message": message, "attempt": ticket.attempt}
    if charged > job.max_retries:
        return move(tx, ticket.job_id, Move.FAIL, attempt=ticket.attempt, outcome="lost", error=told, charged=charged)
    return _retry(tx, ticket, told, outcome="lost", charged=charged)


def give_back(tx: Session, ticket: Ticket, message: str) -> Moved | None:
    """End an attempt that no worker has begun, for a reason that is not the job's: nobody is charged."""
    begun = select(Attempt.started_at).where(Attempt.job_id == ticket.job_id, Attempt.attempt == ticket.attempt)
    job = tx.execute(select(Job.charged).where(_holds(ticket))).one_or_none()
    if job is None or tx.scalar(begun) is not None:
        return None
    told = {"type": ErrorType.LOST.value, "message": message, "attempt": ticket.attempt}
    return _retry(tx, ticket, told, outcome="lost", charged=job.charged)


def _retry(tx: Session, ticket: Ticket, told: dict[str, Any], *, outcome: str, charged: int) -> Moved | None:
    wait_s = BACKOFF_S[min(charged, len(BACKOFF_S) - 1)] if outcome == "failed" else 0.0
    return move(
        tx,
        ticket.job_id,
        Move.REQUEUE,
        attempt=ticket.attempt,
        outcome=outcome,
        error=told,
        charged=charged,
        not_before=db_now() + wait_s,
    )


def renew(tx: Session, tickets: Sequence[Ticket], *, owner: str, lease_s: float) -> None:
    """Renew what `owner`, a dispatcher, has claimed and no worker has begun yet."""
    for ticket in tickets:
        tx.execute(update(Job).where(_holds(ticket), Job.lease_owner == owner).values(lease_until=db_now() + lease_s))


def mark_damaged(tx: Session, job_id: str, attempt: int, step: int) -> None:
    """A checkpoint that did not verify: listed as damaged, never resumed from."""
    tx.execute(
        update(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.attempt == attempt, Checkpoint.step == step)
        .values(status="damaged")
    )


def ready_checkpoints(tx: Session, job_id: str) -> list[Checkpoint]:
    """The checkpoints that may be resumed from, newest first."""
    query = (
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.status == "ready")
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
    )
    return list(tx.scalars(query))


def drop_checkpoints(tx: Session, ticket: Ticket, *, keep: int) -> list[str]:
    """Keep the newest `keep` ready checkpoints; the others' rows go, and their prefixes are returned.

    A checkpoint that a retry of this job starts from stays.
    """
    if tx.execute(select(Job.id).where(_holds(ticket))).one_or_none() is None:
        return []
    needed = {
        start["prefix"]
        for start in tx.scalars(select(Job.start_from).where(Job.parent == ticket.job_id))
        if start is not None
    }
    old = [c for c in ready_checkpoints(tx, ticket.job_id)[keep:] if c.prefix not in needed]
    for checkpoint in old:
        tx.delete(checkpoint)
    return [checkpoint.prefix for checkpoint in old]


def _holds(ticket: Ticket) -> Any:
    return and_(Job.id == ticket.job_id, Job.attempt == ticket.attempt, Job.status.in_(ACTIVE))
