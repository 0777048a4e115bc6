"""Every row of the database as files, the same for both databases, and back.

One JSON object a line, one file a table, all of one moment. Rows name objects that were written before them, so the
rows are taken first: whatever they name is then in the object store, unless it was deleted since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table, delete, func, insert, select, text
from sqlalchemy.orm import Session

from orchestrator.store.database import Database
from orchestrator.store.tables import Base, Blob, DatasetVersion, Job, ModelVersion

CHUNK = 500
WORK = (Job, DatasetVersion, ModelVersion, Blob)  # what nobody wants to lose; a start alone makes none of it
TABLES: Sequence[Table] = Base.metadata.sorted_tables  # those that others refer to come first


class NotRestorable(Exception):
    """The rows do not fit into this database; the message says why."""


def write(db: Database, folder: Path) -> dict[str, int]:
    """Write every table into `folder`; how many rows each has. The database goes on meanwhile."""
    folder.mkdir(parents=True)
    with db.read() as tx:
        if not db.is_sqlite:
            tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            tx.execute(text("SET LOCAL statement_timeout = 0"))
        return {table.name: _write_table(tx, table, folder) for table in TABLES}


def read(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    """The rows of one table as they were written; none for a table that there was not."""
    path = _path(folder, table)
    if path.exists():
        with path.open() as lines:
            yield from map(json.loads, lines)


def require_empty(tx: Session) -> None:
    """Raises NotRestorable where somebody has worked already."""
    for table in WORK:
        if tx.scalar(select(func.count()).select_from(table)):
            raise NotRestorable(f"the database is not empty: it has rows in {table.__tablename__}")


def restore(tx: Session, folder: Path) -> dict[str, int]:
    """Put rows of this schema or an older one into an empty database of this schema; how many of each table.

    Columns that came later get their defaults, as they do from replicas of an older release. Raises NotRestorable.
    """
    require_empty(tx)
    unknown = {path.stem for path in folder.glob("*.jsonl")} - {table.name for table in TABLES}
    if unknown:
        raise NotRestorable(f"tables {sorted(unknown)} are of a newer release: install that one first")
    for table in reversed(TABLES):
        tx.execute(delete(table))
    return {table.name: _restore_table(tx, table, folder) for table in TABLES}


def _write_table(tx: Session, table: Table, folder: Path) -> int:
    count = 0
    query = select(*table.columns).execution_options(yield_per=CHUNK)
    with _path(folder, table.name).open("w") as file:
        for count, row in enumerate(tx.execute(query), 1):  # noqa: B007  the last number is the answer
            file.write(json.dumps(dict(row._mapping)) + "\n")
    return count


def _restore_table(tx: Session, table: Table, folder: Path) -> int:
    rows, count = read(folder, table.name), 0
    while chunk := list(islice(rows, CHUNK)):
        if unknown := chunk[0].keys() - table.columns.keys():
            raise NotRestorable(f"columns {sorted(unknown)} of {table.name} are of a newer release: install that first")
        tx.execute(insert(table), chunk)
        count += len(chunk)
    return count


def _path(folder: Path, table: str) -> Path:
    return folder / f"{table}.jsonl"
