"""What estimates are made from: counted steps, measured devices, past runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import literal_column, select, update
from sqlalchemy.orm import Session

from orchestrator.estimate import Estimate, Past, PhaseCost, Speed
from orchestrator.states import TERMINAL
from orchestrator.store.database import db_now
from orchestrator.store.inserts import insert_missing, upsert
from orchestrator.store.tables import Cost, Device, Job

CPU = "cpu"
RUNS = 50  # the newest ones of a task that an estimate looks at


def counted(tx: Session, key: str) -> list[PhaseCost] | None:
    """What was counted under a key; None where nobody has, empty where it cannot be."""
    phases = tx.scalar(select(Cost.phases).where(Cost.key == key))
    return None if phases is None else [PhaseCost(**phase) for phase in phases]


def keep(tx: Session, key: str, phases: Sequence[PhaseCost]) -> None:
    now = tx.scalar(select(db_now()))
    row = {"key": key, "phases": [phase._asdict() for phase in phases], "created_at": now}
    insert_missing(tx, Cost, [row], unique=["key"])


def speed(tx: Session, *, gpu: bool) -> Speed | None:
    """The newest measurement of a core, or of whatever GPU was measured last."""
    query = select(Device.flops_per_s, Device.bytes_per_s).order_by(Device.measured_at.desc()).limit(1)
    row = tx.execute(query.where(Device.name != CPU if gpu else Device.name == CPU)).one_or_none()
    return None if row is None else Speed(*row)


def has_speed(tx: Session, device: str) -> bool:
    return tx.scalar(select(Device.name).where(Device.name == device)) is not None


def keep_speed(tx: Session, device: str, speed: Speed) -> None:
    now = tx.scalar(select(db_now()))
    upsert(tx, Device, [{"name": device, **speed._asdict(), "measured_at": now}])


def past_runs(tx: Session, method: str, task: str) -> list[Past]:
    """Of all tenants: how fast a device is says nothing about whose job it was."""
    query = (
        select(Job.estimate, Job.running_s)
        .where(
            Job.method == method,
            Job.task == task,
            Job.status == literal_column("'succeeded'"),  # as the partial index says it
            Job.estimate.is_not(None),
        )
        .order_by(Job.id.desc())
        .limit(RUNS)
    )
    return [Past(row.estimate["raw_s"], row.running_s) for row in tx.execute(query) if row.estimate]


def keep_estimate(tx: Session, job_id: str, made: Estimate) -> None:
    """Of a job that was submitted before its steps were counted."""
    unknown = (Job.id == job_id, Job.estimate.is_(None), Job.status.not_in(TERMINAL))
    tx.execute(update(Job).where(*unknown).values(estimate=as_json(made)))


def as_json(made: Estimate) -> Mapping[str, Any]:
    return made._asdict()
