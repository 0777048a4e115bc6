"""Rows for tests of the queue."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from orchestrator.states import Status
from orchestrator.store import claims, events, lanes, queue
from orchestrator.store.database import Database, db_now
from orchestrator.store.events import NewEvent
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Attempt, Event, Job, Ledger, Metric, Tenant

TENANT = "tenant_1"


def give_room(db: Database, *, cpus: int = 4, gpus: int = 0) -> None:
    with db.write() as tx:
        claims.set_room(tx, cpus=cpus, gpus=gpus)


def add_tenant(db: Database, tenant: str, **changes: Any) -> str:
    """A tenant, unless it is there."""
    with db.write() as tx:
        if tx.get(Tenant, tenant) is None:
            tx.add(Tenant(id=tenant, name=tenant, created_at=0.0, **changes))
    return tenant


def queue_job(db: Database, job_id: str, *, tenant: str = TENANT, **changes: Any) -> str:
    """A queued job with one core, as `POST /v1/jobs` makes it."""
    add_tenant(db, tenant)
    with db.write() as tx:
        values: dict[str, Any] = {
            "kind": "train", "method": "metastyle", "task": "train", "name": job_id, "config": {}, "datasets": {},
            "cpus": 1, "gpus": 0, "workers": 1, "min_workers": 1, "seed": 0, "publish_as": job_id, "tags": {},
            "priority": 0, "max_retries": 2, "keep_checkpoints": 3, "status": Status.QUEUED, "attempt": 0, "charged": 0,
            "events": 1, "not_before": 0.0, "step": 0, "total_steps": 10, "running_s": 0.0, "created_at": db_now(),
        }  # fmt: skip
        values = {"lane": lane(tenant, values | changes)} | values | changes
        tx.add(Job(id=job_id, tenant_id=tenant, **values))
        tx.flush()
        events.append(tx, job_id, 0, 1, [NewEvent("status", {"status": "queued", "phase": "pending", "reason": "new"})])
    return job_id


def lane(tenant: str, job: dict[str, Any]) -> str:
    """The lane of a job with these columns."""
    shape = (job["cpus"], job["gpus"], job["workers"], job["min_workers"])
    short = lanes.is_short(job["kind"], job["task"], job["gpus"], job["workers"])
    return lanes.key_of(
        tenant, job.get("class_", "standard"), job["priority"], shape, short=short, has_deadline="deadline" in job
    )


def claim(db: Database, owner: str = "dispatcher-a") -> Ticket | None:
    with db.write() as tx:
        claimed = claims.claim_next(tx, owner=owner, lease_s=15.0)
    return claimed.ticket if claimed else None


def begin(db: Database, ticket: Ticket, *, resumed_from: int = 0, actor: str = "run") -> bool:
    with db.write() as tx:
        moved = queue.begin(
            tx, ticket, actor=actor, node="n", pid=1, resumed_from=resumed_from, total_steps=10, lease_s=15.0
        )
    return moved is not None


def started(db: Database, job_id: str, **changes: Any) -> Ticket:
    """A job whose worker has begun."""
    queue_job(db, job_id, **changes)
    ticket = claim(db)
    assert ticket is not None
    assert ticket.job_id == job_id
    assert begin(db, ticket)
    return ticket


def job(db: Database, job_id: str) -> Job:
    with db.read() as tx:
        return tx.get_one(Job, job_id)


def status(db: Database, job_id: str) -> str:
    return job(db, job_id).status


def attempts(db: Database, job_id: str) -> list[Attempt]:
    with db.read() as tx:
        return list(tx.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.attempt)))


def room_taken(db: Database) -> int:
    with db.read() as tx:
        return tx.scalars(select(Ledger.cpus_taken)).one()


def metrics(db: Database, job_id: str, name: str) -> dict[int, float]:
    with db.read() as tx:
        rows = tx.scalars(select(Metric).where(Metric.job_id == job_id, Metric.name == name))
        return {row.step: row.value for row in rows}


def event_ids(db: Database, job_id: str) -> list[int]:
    with db.read() as tx:
        return list(tx.scalars(select(Event.id).where(Event.job_id == job_id).order_by(Event.id)))


def status_events(db: Database, job_id: str) -> list[str]:
    with db.read() as tx:
        query = select(Event.body).where(Event.job_id == job_id, Event.event == "status").order_by(Event.id)
        return [body["status"] for body in tx.scalars(query)]
