"""Datasets: versions of lists of pictures, and which pictures a tenant has already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Row, Table, bindparam, case, func, select
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.store import jobs, removal
from orchestrator.store.database import db_now
from orchestrator.store.tables import Blob, DatasetVersion, Tenant

IN_ONE_QUERY = 500  # values in one IN list
INGEST_RETRIES = 3  # a lost ingest is started again this often

# Everything but the long lists.
FACTS = (
    DatasetVersion.name,
    DatasetVersion.version,
    DatasetVersion.kind,
    DatasetVersion.status,
    DatasetVersion.hash,
    DatasetVersion.count,
    DatasetVersion.bytes,
    DatasetVersion.classes,
    DatasetVersion.class_counts,
    DatasetVersion.refused,
    DatasetVersion.error,
    DatasetVersion.prefix,
    DatasetVersion.created_at,
)


class Planned(NamedTuple):
    """Which version a commit gives."""

    version: int
    status: str
    exists: bool


class Pin(NamedTuple):
    """A version that a job names."""

    name: str
    version: int
    kind: str
    status: str
    hash: str | None
    prefix: str | None
    error: str | None
    class_counts: dict[str, int] | None

    def reference(self) -> dict[str, Any]:
        """What a job keeps of it."""
        return {"name": self.name, "version": self.version, "hash": self.hash, "prefix": self.prefix}


# Built once: every submit asks.
_columns = cast(Table, DatasetVersion.__table__).c
_pins = select(*(_columns[field] for field in Pin._fields)).where(
    _columns.tenant_id == bindparam("tenant"), _columns.name == bindparam("name")
)
_ready_first = case((_columns.status == "ready", 0), else_=1)
NEWEST_READY = _pins.order_by(_ready_first, _columns.version.desc()).limit(1)
ONE_VERSION = _pins.where(_columns.version == bindparam("version"))


def known_blobs(tx: Session, tenant: str, digests: Iterable[str]) -> set[str]:
    """Those of `digests` whose pictures an ingest of this tenant has read and checked."""
    wanted = sorted(set(digests))
    found: set[str] = set()
    for start in range(0, len(wanted), IN_ONE_QUERY):
        chunk = wanted[start : start + IN_ONE_QUERY]
        found.update(tx.scalars(select(Blob.sha256).where(Blob.tenant_id == tenant, Blob.sha256.in_(chunk))))
    return found


def list_digest(kind: str, files: Sequence[dict[str, str]]) -> str:
    """The same for the same files in any order."""
    lines = sorted(f"{file['sha256']} {file['path']}" for file in files)
    return hashlib.sha256(json.dumps([kind, lines]).encode()).hexdigest()


def plan(tx: Session, tenant: str, name: str, digest: str) -> Planned:
    """The newest version again if its list is the same and it was not rejected, else the next one.

    Holds the tenant's row, so nobody else gives out a version of it until the transaction ends.
    """
    tx.execute(select(Tenant.id).where(Tenant.id == tenant).with_for_update(key_share=True))
    newest = tx.execute(
        select(DatasetVersion.version, DatasetVersion.status, DatasetVersion.list_digest)
        .where(DatasetVersion.tenant_id == tenant, DatasetVersion.name == name)
        .order_by(DatasetVersion.version.desc())
        .limit(1)
    ).one_or_none()
    retired = removal.retired(tx, tenant, removal.DATASET, name)
    if newest is None:
        return Planned(retired + 1, "ingesting", False)
    if newest.list_digest == digest and newest.status != "rejected":
        return Planned(newest.version, newest.status, True)
    return Planned(max(newest.version, retired) + 1, "ingesting", False)


def commit(tx: Session, tenant: str, name: str, version: int, kind: str, files: Sequence[dict[str, str]]) -> None:
    """A new version, and in the same transaction the ingest that will make it ready or reject it."""
    tx.add(
        DatasetVersion(
            tenant_id=tenant,
            name=name,
            version=version,
            kind=kind,
            status="ingesting",
            files=list(files),
            list_digest=list_digest(kind, files),
            classes=[],
            refused=[],
            paths={},
            created_at=db_now(),
        )
    )
    tx.flush()
    ingest = jobs.NewJob(
        new_id("job"),
        tenant,
        kind="ingest",
        method="datasets",
        task="ingest",
        name=name,
        config={"name": name, "version": version},
        cpus=0,
        gpus=0,
        max_retries=INGEST_RETRIES,
        total_steps=len(files),
    )
    jobs.submit(tx, ingest)


def find(tx: Session, tenant: str, name: str, version: int | None = None) -> Row[Any] | None:
    """The `FACTS` of a version, or of the newest one."""
    query = select(*FACTS).where(DatasetVersion.tenant_id == tenant, DatasetVersion.name == name)
    if version is not None:
        query = query.where(DatasetVersion.version == version)
    return tx.execute(query.order_by(DatasetVersion.version.desc()).limit(1)).one_or_none()


def page(tx: Session, tenant: str, *, after: str | None, limit: int) -> Sequence[Row[Any]]:
    """The newest version of every dataset, in the order of names, those with names above `after`."""
    newest = (
        select(DatasetVersion.name, func.max(DatasetVersion.version).label("version"))
        .where(DatasetVersion.tenant_id == tenant, *([] if after is None else [DatasetVersion.name > after]))
        .group_by(DatasetVersion.name)
        .order_by(DatasetVersion.name)
        .limit(limit)
        .subquery()
    )
    query = (
        select(*FACTS)
        .join(newest, (DatasetVersion.name == newest.c.name) & (DatasetVersion.version == newest.c.version))
        .where(DatasetVersion.tenant_id == tenant)
        .order_by(DatasetVersion.name)
    )
    return tx.execute(query).all()


def pin(tx: Session, tenant: str, name: str, version: int | None) -> Pin | None:
    """The version that a job means; without a number the newest ready one, else the newest there is."""
    query = NEWEST_READY if version is None else ONE_VERSION
    row = tx.execute(query, {"tenant": tenant, "name": name, "version": version}).one_or_none()
    return None if row is None else Pin(*row)


def picture(tx: Session, tenant: str, name: str, version: int, path: str) -> str | None:
    """The sha256 of the picture with this path in a version; None when it has none (or refused it)."""
    return pictures(tx, tenant, name, version).get(path)


def pictures(tx: Session, tenant: str, name: str, version: int) -> dict[str, str]:
    """Path -> sha256 of every usable picture of a version."""
    paths = tx.scalar(
        select(DatasetVersion.paths).where(
            DatasetVersion.tenant_id == tenant, DatasetVersion.name == name, DatasetVersion.version == version
        )
    )
    return dict(paths or {})
