"""Migrations and models say the same, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.tables import Base


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    url: str = request.getfixturevalue("postgresql_url")
    db = Database(url)
    with db.write() as tx:
        tx.execute(text("DROP SCHEMA public CASCADE"))
        tx.execute(text("CREATE SCHEMA public"))
    db.dispose()
    return url


def test_the_migrations_make_exactly_the_tables_of_the_models(empty_url: str):
    migrate.upgrade(empty_url)
    db = Database(empty_url)
    with db.read() as tx:
        context = MigrationContext.configure(tx.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert migrate.is_current(tx.connection())
    db.dispose()


def test_whoever_comes_second_finds_nothing_left_to_do(empty_url: str):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade, [empty_url] * 4))
    migrate.upgrade(empty_url)
    db = Database(empty_url)
    with db.read() as tx:
        assert migrate.is_current(tx.connection())
    db.dispose()


def test_a_database_without_tables_is_not_current(empty_url: str):
    db = Database(empty_url)
    with db.read() as tx:
        assert not migrate.is_current(tx.connection())
    db.dispose()


def test_the_keys_of_lanes_are_compared_byte_by_byte_on_postgresql(postgresql_url: str):
    """SQLAlchemy does not compare collations; the queue is walked from lane to lane in this order."""
    db = Database(postgresql_url)
    with db.read() as tx:
        of_column = text(
            "SELECT collation_name FROM information_schema.columns WHERE table_name = 'jobs' AND column_name = 'lane'"
        )
        assert tx.scalar(of_column) == "C"
    db.dispose()
