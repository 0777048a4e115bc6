"""Jobs as their owners see them: made, listed, looked at. Changes of status are the queue's (`queue.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import Session

from orchestrator.ids import is_id
from orchestrator.states import Phase, Status, phase_of
from orchestrator.store import events, queue
from orchestrator.store.database import db_now
from orchestrator.store.events import NewEvent
from orchestrator.store.tables import Attempt, Checkpoint, Job, JobTag, Ledger, Sample

COUNTED_AHEAD = 200  # a position is counted no further: its cost does not grow with the queue
CLUSTER_SEEN_S = 15.0  # a ledger that no dispatcher has renewed for longer says nothing


@dataclass(frozen=True)
class NewJob:
    """What a submit decides; everything is pinned and complete."""

    id: str
    tenant: str
    _: KW_ONLY
    kind: str = "train"
    method: str
    task: str
    name: str
    config: Mapping[str, Any]
    datasets: Mapping[str, Any] = field(default_factory=dict)
    style_image: Mapping[str, Any] | None = None
    base_model: Mapping[str, Any] | None = None
    cpus: int
    gpus: int
    workers: int = 1
    min_workers: int = 1
    seed: int = 0
    publish_as: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    max_retries: int
    timeout_s: float | None = None
    keep_checkpoints: int = 0
    total_steps: int
    parent: str | None = None
    start_from: Mapping[str, Any] | None = None


class Waiting(NamedTuple):
    """Why a pending job does not run."""

    reason: str  # paused | backoff | cluster (none was seen lately) | room | queue (its turn comes)
    position: int | None  # 1 is next; None when it is paused, or more than `COUNTED_AHEAD` are ahead


class Shown(NamedTuple):
    """A job with what is derived from other rows."""

    job: Job
    waiting: Waiting | None
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which jobs a list is of; all conditions hold together."""

    status: Sequence[str] = ()
    method: str | None = None
    tags: Sequence[tuple[str, str]] = ()
    name_contains: str | None = None


class Cluster(NamedTuple):
    """What the ledger says at an instant; nothing as long as no dispatcher has seen a cluster."""

    now: float
    cpus: int | None
    gpus: int | None
    cpus_taken: int | None
    gpus_taken: int | None
    seen_at: float | None

    @property
    def is_known(self) -> bool:
        return bool(self.cpus or self.gpus)

    @property
    def is_there(self) -> bool:
        """A dispatcher has seen it within the last seconds."""
        return self.seen_at is not None and self.now - self.seen_at < CLUSTER_SEEN_S


# Built once: to put a statement together takes SQLAlchemy longer than the database takes to run it.
_jobs = cast(Table, Job.__table__)
INSERT_JOB = insert(_jobs).values(created_at=db_now()).returning(_jobs.c.created_at)
INSERT_TAG = insert(cast(Table, JobTag.__table__))
_ledger = cast(Table, Ledger.__table__)
CLUSTER = select(db_now(), *(_ledger.c[fact] for fact in Cluster._fields[1:])).select_from(
    select(literal(1)).subquery().outerjoin(_ledger, true())
)


def _ahead() -> Select[str, int]:
    """How many queued training jobs of all tenants come before each of `job_ids`, counted up to a limit."""
    me, other = _jobs.alias("me"), _jobs.c

    def counted(condition: ColumnElement[bool]) -> Any:
        queued = (other.status == Status.QUEUED.value, other.kind == "train")
        # In the queue's order, so that PostgreSQL walks its index: it would read all of the table for the limit.
        found = select(other.id).where(*queued, condition).order_by(other.priority.desc(), other.id)
        found = found.limit(COUNTED_AHEAD + 1).correlate(me)
        return select(func.count()).select_from(found.subquery()).scalar_subquery()

    more_urgent = counted(other.priority > me.c.priority)
    older = counted(and_(other.priority == me.c.priority, other.id < me.c.id))
    return select(me.c.id, more_urgent + older).where(me.c.id.in_(bindparam("job_ids", expanding=True)))


AHEAD = _ahead()


def submit(tx: Session, new: NewJob) -> Job:
    """Queue a job: its row, its tags, its first event. The job that is returned belongs to no session."""
    values = {
        "id": new.id,
        "tenant_id": new.tenant,
        "kind": new.kind,
        "method": new.method,
        "task": new.task,
        "name": new.name,
        "config": dict(new.config),
        "datasets": dict(new.datasets),
        "style_image": new.style_image,
        "base_model": new.base_model,
        "cpus": new.cpus,
        "gpus": new.gpus,
        "workers": new.workers,
        "min_workers": new.min_workers,
        "seed": new.seed,
        "publish_as": new.publish_as,
        "tags": dict(new.tags),
        "priority": new.priority,
        "max_retries": new.max_retries,
        "timeout_s": new.timeout_s,
        "keep_checkpoints": new.keep_checkpoints,
        "parent": new.parent,
        "start_from": new.start_from,
        "status": Status.QUEUED.value,
        "attempt": 0,
        "charged": 0,
        "events": 1,
        "not_before": 0.0,
        "step": new.start_from["step"] if new.start_from else 0,
        "total_steps": new.total_steps,
        "running_s": 0.0,
    }
    job = Job(**values, created_at=tx.scalar(INSERT_JOB, values))
    if new.tags:
        tx.execute(INSERT_TAG, [{"job_id": new.id, "key": key, "value": value} for key, value in new.tags.items()])
    queued = {"status": Status.QUEUED.value, "phase": phase_of(Status.QUEUED).value, "reason": "submitted"}
    events.append(tx, new.id, 0, 1, [NewEvent("status", queued)])
    return job


def find(tx: Session, tenant: str, job_id: str) -> Job | None:
    """A tenant's training job; None for what is another tenant's, an ingest or no id at all."""
    if not is_id("job", job_id):
        return None
    return tx.scalars(select(Job).where(Job.id == job_id, Job.tenant_id == tenant, Job.kind == "train")).one_or_none()


def page(tx: Session, tenant: str, filter: Filter, *, before: str | None, limit: int) -> list[Job]:
    """A tenant's training jobs, newest first, those with ids below `before`."""
    query = select(Job).where(Job.tenant_id == tenant, Job.kind == "train")
    if before is not None:
        query = query.where(Job.id < before)
    if filter.status:
        query = query.where(Job.status.in_(filter.status))
    if filter.method is not None:
        query = query.where(Job.method == filter.method)
    if filter.name_contains is not None:
        query = query.where(func.lower(Job.name).contains(filter.name_contains.lower(), autoescape=True))
    for key, value in filter.tags:
        query = query.where(exists().where(JobTag.job_id == Job.id, JobTag.key == key, JobTag.value == value))
    return list(tx.scalars(query.order_by(Job.id.desc()).limit(limit)))


def cluster(tx: Session) -> Cluster:
    """What the ledger says now."""
    return Cluster(*tx.execute(CLUSTER).one())


def shown(tx: Session, jobs: Sequence[Job], seen: Cluster | None = None) -> list[Shown]:
    """The jobs with why they wait and when they will be ready.

    seen: what `cluster` has told in this transaction, where that is known already.
    """
    waiting = _waiting(tx, [job for job in jobs if phase_of(job.status) is Phase.PENDING], seen)
    etas = _etas(tx, [job.id for job in jobs if job.status == Status.RUNNING])
    return [Shown(job, waiting.get(job.id), etas.get(job.id)) for job in jobs]


def _waiting(tx: Session, jobs: Sequence[Job], seen: Cluster | None) -> dict[str, Waiting]:
    waiting = {job.id: Waiting("paused", None) for job in jobs if job.status == Status.PAUSED}
    queued = [job for job in jobs if job.status == Status.QUEUED]
    if not queued:
        return waiting
    seen = seen or cluster(tx)
    ahead = {row[0]: row[1] for row in tx.execute(AHEAD, {"job_ids": [job.id for job in queued]})}
    for job in queued:
        position = ahead[job.id] + 1 if ahead[job.id] <= COUNTED_AHEAD else None
        waiting[job.id] = Waiting(_reason(job, seen), position)
    return waiting


def _reason(job: Job, seen: Cluster) -> str:
    if job.not_before > seen.now:
        return "backoff"
    if not seen.is_there:
        return "cluster"
    cpus_free = (seen.cpus or 0) - (seen.cpus_taken or 0)
    gpus_free = (seen.gpus or 0) - (seen.gpus_taken or 0)
    fits = job.cpus * job.min_workers <= cpus_free and job.gpus * job.min_workers <= gpus_free
    return "queue" if fits else "room"


def _etas(tx: Session, job_ids: Sequence[str]) -> dict[str, float]:
    """Seconds to the last step at the pace of the present attempt; nothing before its first step."""
    if not job_ids:
        return {}
    done = Job.step - Attempt.resumed_from
    query = (
        select(Job.id, (db_now() - Attempt.started_at) * (Job.total_steps - Job.step) / done)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .where(Job.id.in_(job_ids), Attempt.started_at.is_not(None), done > 0)
    )
    return {job_id: max(0.0, eta_s) for job_id, eta_s in tx.execute(query)}


def start_of_retry(tx: Session, parent: Job) -> dict[str, Any] | None:
    """The newest ready checkpoint of `parent`, or the one that it started from itself; None when there is neither."""
    ready = queue.ready_checkpoints(tx, parent.id)
    if not ready:
        return parent.start_from
    newest = ready[0]
    return {
        "job": newest.job_id,
        "attempt": newest.attempt,
        "step": newest.step,
        "prefix": newest.prefix,
        "manifest_sha256": newest.manifest_sha256,
    }


def attempts(tx: Session, job_id: str, *, after: int, limit: int) -> list[Attempt]:
    query = select(Attempt).where(Attempt.job_id == job_id, Attempt.attempt > after).order_by(Attempt.attempt)
    return list(tx.scalars(query.limit(limit)))


def checkpoints(tx: Session, job_id: str, *, after: tuple[int, int], limit: int) -> list[Checkpoint]:
    """Ready and damaged ones in order of steps, those beyond (step, attempt)."""
    query = (
        select(Checkpoint)
        .where(
            Checkpoint.job_id == job_id,
            Checkpoint.status != "dropped",
            tuple_(Checkpoint.step, Checkpoint.attempt) > tuple_(*after),
        )
        .order_by(Checkpoint.step, Checkpoint.attempt)
    )
    return list(tx.scalars(query.limit(limit)))


def samples(tx: Session, job_id: str, *, after: tuple[int, str], limit: int) -> list[Sample]:
    """Preview pictures in order of steps and names, those beyond (step, name)."""
    query = (
        select(Sample)
        .where(Sample.job_id == job_id, tuple_(Sample.step, Sample.name) > tuple_(*after))
        .order_by(Sample.step, Sample.name)
    )
    return list(tx.scalars(query.limit(limit)))
