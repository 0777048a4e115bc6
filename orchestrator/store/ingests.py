"""What an ingest reads and writes: a dataset version, and the pictures that have been checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from orchestrator.store.database import db_now
from orchestrator.store.inserts import upsert
from orchestrator.store.tables import Blob, DatasetVersion

AT_ONCE = 500  # rows in one statement


def version_of(tx: Session, tenant: str, name: str, version: int) -> DatasetVersion | None:
    return tx.get(DatasetVersion, (tenant, name, version))


def conclude(tx: Session, tenant: str, name: str, version: int, values: Mapping[str, Any]) -> None:
    """Write what has become of a version that is still being ingested: `status` and what goes with it."""
    mine = (DatasetVersion.tenant_id == tenant, DatasetVersion.name == name, DatasetVersion.version == version)
    tx.execute(update(DatasetVersion).where(*mine, DatasetVersion.status == "ingesting").values(**values))


def add_blobs(tx: Session, tenant: str, sizes: Mapping[str, int]) -> None:
    """Pictures that lie checked under `blobs/`: sha256 -> bytes."""
    now = tx.scalar(select(db_now()))
    rows = [{"tenant_id": tenant, "sha256": sha256, "size": size, "created_at": now} for sha256, size in sizes.items()]
    for start in range(0, len(rows), AT_ONCE):
        upsert(tx, Blob, rows[start : start + AT_ONCE])


def forget_blobs(tx: Session, tenant: str, digests: Iterable[str]) -> None:
    """Pictures that are no longer there as they were: the next upload asks for them again."""
    wanted = list(digests)
    for start in range(0, len(wanted), AT_ONCE):
        chunk = wanted[start : start + AT_ONCE]
        tx.execute(delete(Blob).where(Blob.tenant_id == tenant, Blob.sha256.in_(chunk)))
