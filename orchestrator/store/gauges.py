"""Counts for `/metrics`: read when they are asked for, so every replica says the same."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from orchestrator.states import Status
from orchestrator.store.database import db_now
from orchestrator.store.tables import Attempt, Checkpoint, DatasetVersion, Job, Ledger, WebhookDelivery

CLASS = case((Job.kind == "ingest", "ingest"), else_=Job.class_)


class Gauges(NamedTuple):
    jobs: dict[str, int]  # status -> training jobs
    queued: dict[str, int]  # class -> jobs that wait for room; ingests under "ingest"
    oldest_s: dict[str, float]  # class -> how long the first of them has waited, seconds
    attempts: dict[str, int]  # outcome -> attempts; "active" while they go on
    room: dict[str, int]  # cpus, gpus
    taken: dict[str, int]
    room_age_s: float | None  # since a dispatcher last measured the cluster
    checkpoint_lag_s: float  # the longest that a running job has trained beyond its newest checkpoint
    ingesting: int  # versions of datasets that are on their way
    webhooks: dict[str, int]  # pending, dead
    webhook_lag_s: float  # by how much the first pending delivery is late


def read(tx: Session) -> Gauges:
    by_status = _counts(tx, select(Job.status, func.count()).where(Job.kind == "train").group_by(Job.status))
    ledger = tx.scalars(select(Ledger)).one_or_none()
    now = tx.scalar(select(db_now())) or 0.0
    waiting = select(CLASS, func.count(), func.min(func.coalesce(Job.queued_at, Job.created_at)))
    queue = tx.execute(waiting.where(Job.status == Status.QUEUED).group_by(CLASS)).all()
    outcome = func.coalesce(Attempt.outcome, "active")
    return Gauges(
        jobs={status.value: by_status.get(status.value, 0) for status in Status},
        queued={row[0]: row[1] for row in queue},
        oldest_s={row[0]: max(0.0, now - row[2]) for row in queue},
        attempts=_counts(tx, select(outcome, func.count()).group_by(outcome)),
        room={"cpus": ledger.cpus, "gpus": ledger.gpus} if ledger else {},
        taken={"cpus": ledger.cpus_taken, "gpus": ledger.gpus_taken} if ledger else {},
        room_age_s=max(0.0, now - ledger.seen_at) if ledger else None,
        checkpoint_lag_s=_checkpoint_lag(tx, now),
        ingesting=tx.scalar(select(func.count()).where(DatasetVersion.status == "ingesting")) or 0,
        webhooks={"pending": 0, "dead": 0} | _webhooks(tx),
        webhook_lag_s=_webhook_lag(tx, now),
    )


def _counts(tx: Session, query: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in tx.execute(query)}


def _checkpoint_lag(tx: Session, now: float) -> float:
    """Of running training jobs: since the newest checkpoint, or since this attempt's begin where that is later."""
    ready = and_(Checkpoint.job_id == Job.id, Checkpoint.status == "ready")
    newest = select(func.max(Checkpoint.created_at)).where(ready).correlate(Job).scalar_subquery()
    query = (
        select(func.coalesce(newest, 0.0), func.coalesce(Attempt.started_at, now))
        .select_from(Job)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .where(Job.status == Status.RUNNING, Job.kind == "train")
    )
    return max((now - max(kept, begun) for kept, begun in tx.execute(query)), default=0.0)


def _webhooks(tx: Session) -> dict[str, int]:
    """Not those that were delivered: they are many, and nobody waits for them."""
    kept = WebhookDelivery.status.in_(("pending", "dead"))
    return _counts(tx, select(WebhookDelivery.status, func.count()).where(kept).group_by(WebhookDelivery.status))


def _webhook_lag(tx: Session, now: float) -> float:
    due = tx.scalar(select(func.min(WebhookDelivery.next_at)).where(WebhookDelivery.status == "pending"))
    return 0.0 if due is None else max(0.0, now - due)
