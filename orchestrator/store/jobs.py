"""Jobs as their owners see them: made, listed, looked at. Changes of status are the queue's (`queue.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    Table,
    and_,
    exists,
    func,
    insert,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import Session, aliased

from orchestrator.ids import is_id
from orchestrator.scheduling.classes import DEFAULT_CLASS
from orchestrator.scheduling.outlook import Outlook
from orchestrator.states import Phase, Status, phase_of
from orchestrator.store import comparisons, dependencies, events, lanes, waiting
from orchestrator.store.database import db_now
from orchestrator.store.events import NewEvent
from orchestrator.store.scenes import CLASSES, Classes
from orchestrator.store.tables import Attempt, Checkpoint, Job, JobTag, Ledger, Sample
from orchestrator.store.waiting import Waiting

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
    class_: str = DEFAULT_CLASS
    priority: int = 0
    deadline: float | None = None  # seconds since 1970
    max_retries: int
    timeout_s: float | None = None
    keep_checkpoints: int = 0
    total_steps: int
    parent: str | None = None
    start_from: Mapping[str, Any] | None = None
    webhook: Mapping[str, Any] | None = None  # {"url", "events"}
    depends_on: Sequence[str] = ()
    awaited: Sequence[str] = ()  # those of `depends_on` that have not succeeded yet: it is blocked until they have
    base_job: str | None = None
    group_id: str | None = None
    trial: int | None = None
    rung: int | None = None
    estimate: Mapping[str, Any] | None = None


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
    ids: Sequence[str] = ()
    not_retried: bool = False  # nobody has done it again
    group: str | None = None  # the fan-out or sweep that they belong to


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
INSERT_JOBS = insert(_jobs).values(created_at=db_now())
INSERT_JOB = INSERT_JOBS.returning(_jobs.c.created_at)
INSERT_TAG = insert(cast(Table, JobTag.__table__))
_ledger = cast(Table, Ledger.__table__)
CLUSTER = select(db_now(), *(_ledger.c[fact] for fact in Cluster._fields[1:])).select_from(
    select(literal(1)).subquery().outerjoin(_ledger, true())
)


def submit(tx: Session, new: NewJob) -> Job:
    """Queue a job: its row, its tags, its first event. The job that is returned belongs to no session."""
    values = _values(new)
    named = {"class_" if column == "class" else column: value for column, value in values.items()}
    job = Job(**named, created_at=tx.scalar(INSERT_JOB, values))
    _insert_around(tx, [new])
    return job


def submit_many(tx: Session, news: Sequence[NewJob]) -> None:
    """Queue jobs, as many statements as one takes."""
    if news:
        tx.execute(INSERT_JOBS, [_values(new) for new in news])
        _insert_around(tx, news)


def _insert_around(tx: Session, news: Sequence[NewJob]) -> None:
    """What belongs to new jobs besides their rows: tags, edges, the first event of each."""
    tags = [{"job_id": new.id, "key": key, "value": value} for new in news for key, value in new.tags.items()]
    if tags:
        tx.execute(INSERT_TAG, tags)
    edges = [{"job_id": new.id, "awaited": awaited} for new in news for awaited in new.awaited]
    if edges:
        tx.execute(dependencies.INSERT_DEPENDENCY, edges)
    events.begin(tx, [(new.id, _submitted(_first_status(new))) for new in news])


def _first_status(new: NewJob) -> Status:
    return Status.BLOCKED if new.awaited else Status.QUEUED


def _submitted(status: Status) -> NewEvent:
    return NewEvent("status", {"status": status.value, "phase": phase_of(status).value, "reason": "submitted"})


def _values(new: NewJob) -> dict[str, Any]:
    """A new job's row."""
    return {
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
        "class": new.class_,
        "priority": new.priority,
        "deadline": new.deadline,
        "lane": _lane_of(new),
        "max_retries": new.max_retries,
        "timeout_s": new.timeout_s,
        "keep_checkpoints": new.keep_checkpoints,
        "parent": new.parent,
        "start_from": new.start_from,
        "webhook": None if new.webhook is None else dict(new.webhook),
        "depends_on": list(new.depends_on),
        "blockers": len(new.awaited),
        "base_job": new.base_job,
        "group_id": new.group_id,
        "trial": new.trial,
        "rung": new.rung,
        "estimate": new.estimate,
        "status": _first_status(new).value,
        "attempt": 0,
        "charged": 0,
        "preemptions": 0,
        "events": 1,
        "not_before": 0.0,
        "step": new.start_from["step"] if new.start_from else 0,
        "total_steps": new.total_steps,
        "running_s": 0.0,
    }


def _lane_of(new: NewJob) -> str:
    return lanes.key_of(
        new.tenant,
        new.class_,
        new.priority,
        (new.cpus, new.gpus, new.workers, new.min_workers),
        short=lanes.is_short(new.kind, new.task, new.gpus, new.workers),
        has_deadline=new.deadline is not None,
    )


def find(tx: Session, tenant: str, job_id: str) -> Job | None:
    """A tenant's training job; None for what is another tenant's, an ingest or no id at all."""
    if not is_id("job", job_id):
        return None
    return tx.scalars(select(Job).where(Job.id == job_id, Job.tenant_id == tenant, Job.kind == "train")).one_or_none()


def page(tx: Session, tenant: str, filter: Filter, *, before: str | None, limit: int) -> list[Job]:
    """A tenant's training jobs, newest first, those with ids below `before`."""
    query = select(Job).where(Job.tenant_id == tenant, Job.kind == "train", Job.method != comparisons.PREFIX)
    if before is not None:
        query = query.where(Job.id < before)
    if filter.status:
        query = query.where(Job.status.in_(filter.status))
    if filter.ids:
        query = query.where(Job.id.in_(filter.ids))
    if filter.not_retried:
        again = aliased(Job)
        query = query.where(~exists().where(again.parent == Job.id))
    if filter.group is not None:
        query = query.where(Job.group_id == filter.group)
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


def shown(
    tx: Session,
    jobs: Sequence[Job],
    seen: Cluster | None = None,
    *,
    classes: Classes = CLASSES,
    told: Outlook | None = None,
) -> list[Shown]:
    """The jobs with why they wait and when they will be ready.

    seen: what `cluster` has told in this transaction, where that is known already. told: an outlook that will do.
    """
    pending = [job for job in jobs if phase_of(job.status) is Phase.PENDING]
    waits: dict[str, Waiting] = {}
    if pending:
        seen = seen or cluster(tx)
        waits = waiting.waiting(tx, pending, classes, now=seen.now, is_there=seen.is_there, told=told)
    etas = _etas(tx, [job.id for job in jobs if job.status == Status.RUNNING])
    return [Shown(job, waits.get(job.id), etas.get(job.id)) for job in jobs]


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
