"""`INSERT … ON CONFLICT`, which both databases have and SQLAlchemy spells per dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


def conflict_insert(dialect: str, table: Any) -> Any:
    """An insert into `table` that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table.__table__)


def insert_missing(tx: Session, table: Any, rows: Sequence[Mapping[str, Any]], *, unique: Sequence[str]) -> None:
    """Insert rows; what is there already under the same `unique` columns stays as it is."""
    for row in rows:
        insert = conflict_insert(tx.get_bind().dialect.name, table)
        tx.execute(insert.values(**row).on_conflict_do_nothing(index_elements=unique))


def upsert(tx: Session, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; what is there under the same primary key is overwritten."""
    if not rows:
        return
    insert = conflict_insert(tx.get_bind().dialect.name, table)
    keys = [column.name for column in table.__table__.primary_key]
    others = {name: insert.excluded[name] for name in rows[0] if name not in keys}
    tx.execute(insert.on_conflict_do_update(index_elements=keys, set_=others), [dict(row) for row in rows])
