"""The janitor. Objects that no row names go a day later: uploads, dead attempts', what was deleted, parts of uploads
that never ended. So do rows whose time is over: idempotency keys, deliveries of webhooks, the audit log.

An object is deleted only if it is older than a day, far longer than any lease or upload, and no row names it or a
prefix of it at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from orchestrator.objects import Objects, log_key
from orchestrator.store import audit, webhooks
from orchestrator.store.database import Database, db_now
from orchestrator.store.tables import (
    Attempt,
    Blob,
    Checkpoint,
    DatasetVersion,
    IdempotencyKey,
    Job,
    ModelVersion,
    Sample,
)

log = structlog.get_logger()

GRACE_S = 86_400.0
EVERY_S = 3_600.0
DELIVERIES_KEPT_S = 30 * 86_400.0  # of webhooks, from their end
SLICE = 500  # objects between two looks into SQL


class Sweeper:
    """Looks once an hour."""

    def __init__(self, db: Database, objects: Objects, *, audit_days: int = 365) -> None:
        self._db = db
        self._objects = objects
        self._audit_days = audit_days
        self._next = time.monotonic() + 60.0  # not while a fresh start has better things to do

    def sweep_when_due(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            self.sweep()

    def sweep(self, *, grace_s: float = GRACE_S) -> int:
        """Delete what has no row; the number of deleted objects. Raises an error of SQL or of the object store."""
        with self._db.write() as tx:
            tx.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < db_now() - GRACE_S))
            webhooks.forget_ended(tx, age_s=DELIVERIES_KEPT_S)
            audit.forget(tx, age_s=self._audit_days * 86_400.0)
        deleted = self._objects.abort_uploads(grace_s)
        for prefix in ("uploads/", "blobs/", "datasets/", "jobs/"):
            for keys in _slices(self._objects.older_than(prefix, grace_s)):
                with self._db.read() as tx:
                    orphans = [key for key in keys if not is_named(tx, key)]
                self._objects.delete(orphans)
                deleted += len(orphans)
        log.info("swept", deleted=deleted)
        return deleted


def is_named(tx: Session, key: str) -> bool:
    """Whether a row still needs this object."""
    kind, tenant, *rest = key.split("/")
    if kind == "uploads":
        return False  # what an ingest took from it lies under blobs/
    if kind == "blobs":
        return tx.get(Blob, (tenant, rest[0])) is not None
    if kind == "datasets":
        return _dataset_needs(tx, tenant, key, rest)
    return _job_needs(tx, tenant, key, rest)


def _dataset_needs(tx: Session, tenant: str, key: str, rest: list[str]) -> bool:
    name, version = rest[0], rest[1]
    row = tx.get(DatasetVersion, (tenant, name, int(version)))
    if row is None:
        return False
    return row.status == "ingesting" or (row.prefix is not None and key.startswith(row.prefix + "/"))


def _job_needs(tx: Session, tenant: str, key: str, rest: list[str]) -> bool:
    job_id, attempt = rest[0], int(rest[1].removeprefix("a"))
    job = tx.get(Job, job_id)
    if job is None:
        return False
    if job.attempt == attempt and job.finished_at is None:
        return True  # at work, or about to be: rows follow their objects
    if key == log_key(tenant, job_id, attempt):
        return tx.get(Attempt, (job_id, attempt)) is not None
    if tx.scalar(select(Sample.key).where(Sample.job_id == job_id, Sample.key == key)) is not None:
        return True
    prefixes: Iterable[str] = (
        *tx.scalars(select(Checkpoint.prefix).where(Checkpoint.job_id == job_id)),
        *tx.scalars(select(ModelVersion.prefix).where(ModelVersion.job_id == job_id)),
    )
    return any(key.startswith(prefix + "/") for prefix in prefixes)


def _slices(keys: Iterable[str]) -> Iterable[list[str]]:
    pending: list[str] = []
    for key in keys:
        pending.append(key)
        if len(pending) == SLICE:
            yield pending
            pending = []
    if pending:
        yield pending
