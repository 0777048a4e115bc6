"""Counts for Prometheus."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.states import Status
from orchestrator.store.tables import Attempt, Job, Ledger


class Gauges(NamedTuple):
    jobs: dict[str, int]  # status -> training jobs
    queued: int  # training jobs and ingests
    attempts: dict[str, int]  # outcome -> attempts; "active" while they go on
    room: dict[str, int]  # cpus, gpus
    taken: dict[str, int]


def read(tx: Session) -> Gauges:
    by_status = select(Job.status, func.count()).where(Job.kind == "train").group_by(Job.status)
    counted = {row[0]: row[1] for row in tx.execute(by_status)}
    queued = tx.scalar(select(func.count()).where(Job.status == Status.QUEUED)) or 0
    outcome = func.coalesce(Attempt.outcome, "active")
    attempts = {row[0]: row[1] for row in tx.execute(select(outcome, func.count()).group_by(outcome))}
    ledger = tx.scalars(select(Ledger)).one_or_none()
    return Gauges(
        jobs={status.value: counted.get(status.value, 0) for status in Status},
        queued=queued,
        attempts=attempts,
        room={"cpus": ledger.cpus, "gpus": ledger.gpus} if ledger else {},
        taken={"cpus": ledger.cpus_taken, "gpus": ledger.gpus_taken} if ledger else {},
    )
