"""Releases overlap: replicas of the old one go on over the schema of the new one, which comes first.

An old release is here what it leaves in SQL: rows of exactly the columns that its schema had. And this release is an
old one when a later one has migrated the database.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, select, text, update

from orchestrator.store import claims, migrate
from orchestrator.store.database import Database
from tests.orchestrator.conftest import Api

REVISIONS = [s.revision for s in ScriptDirectory("orchestrator/store/migrations").walk_revisions()][1:]
JOB: dict[str, Any] = {"status": "queued", "kind": "train", "attempt": 0, "not_before": 0.0, "gpus": 0}
LEDGER: dict[str, Any] = {"cpus": 4, "gpus": 0, "cpus_taken": 0, "gpus_taken": 0}
VALUES: dict[type, Any] = {str: "x", int: 1, float: 1.0, bool: False, dict: {}}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    """A database without a table."""
    if request.param == "sqlite":
        db = Database(f"sqlite:///{tmp_path}/empty.db")
    else:
        db = Database(request.getfixturevalue("postgresql_url"))
        with db.write() as tx:
            tx.execute(text("DROP SCHEMA public CASCADE"))
            tx.execute(text("CREATE SCHEMA public"))
    yield db
    db.dispose()


def reflected(connection: Connection) -> MetaData:
    found = MetaData()
    found.reflect(connection)
    found.remove(found.tables["alembic_version"])
    return found


def row(table: Table, *, bare: bool = False) -> dict[str, Any]:
    """A row of every column that the table has; what refers to another row refers to that row's `x`.

    bare: NULL where that may be.
    """
    special = {"jobs": JOB, "ledger": LEDGER}.get(table.name, {})
    values = {c.name: None if bare and c.nullable else VALUES[_kind(c)] for c in table.columns}
    return values | {name: value for name, value in special.items() if name in values}


def _kind(column: Any) -> type:
    return dict if "JSON" in str(column.type) else column.type.python_type


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_older_release_writes_and_reads_still_goes(empty: Database, revision: str):
    with empty.write() as tx:
        migrate.upgrade_connection(tx.connection(), revision)
        old = reflected(tx.connection())
        migrate.upgrade_connection(tx.connection())
    with empty.write() as tx:
        for table in old.sorted_tables:
            tx.execute(insert(table), [row(table)])
    with empty.write() as tx:
        for table in old.sorted_tables:
            assert tx.execute(select(table)).one()._mapping == row(table), table.name
            plain = [c for c in table.columns if not c.primary_key and not c.foreign_keys]
            values = {c.name: row(table)[c.name] for c in plain}
            assert not values or tx.execute(update(table).values(values)).rowcount == 1, table.name


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_job_that_an_older_replica_has_queued_is_claimed(empty: Database, revision: str):
    with empty.write() as tx:
        migrate.upgrade_connection(tx.connection(), revision)
        old = reflected(tx.connection())
        migrate.upgrade_connection(tx.connection())
    with empty.write() as tx:
        for name in ("tenants", "ledger", "jobs"):
            tx.execute(insert(old.tables[name]), [row(old.tables[name], bare=True)])
    with empty.write() as tx:
        claimed = claims.claim_next(tx, owner="new", lease_s=15)
    assert claimed is not None
    assert claimed.ticket.job_id == "x"
    assert claimed.ticket.attempt == 1


@pytest.fixture
def newer_url(database_url: str) -> str:
    """A database that a release after this one has migrated: a table and columns that nobody here knows."""
    db = Database(database_url)
    with db.write() as tx:
        tx.execute(text("CREATE TABLE moons (id TEXT PRIMARY KEY)"))
        for table in ("jobs", "attempts", "events", "tenants", "ledger"):
            tx.execute(text(f"ALTER TABLE {table} ADD COLUMN moon TEXT NOT NULL DEFAULT 'full'"))
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    db.dispose()
    return database_url


def test_this_release_works_on_the_schema_of_a_later_one(newer_url: str, api: Api):
    api.room(cpus=2)
    assert api.client.get("/readyz").status_code == 200
    job = api.job()
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="old", lease_s=15)
    assert claimed is not None
    assert claimed.ticket.job_id == job["id"]
    assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelling"
    assert [event["status"] for event in api.get(f"/v1/jobs/{job['id']}/events").json()["data"]][:2] == [
        "queued",
        "starting",
    ]
    migrate.upgrade(newer_url)
    with api.db.read() as tx:
        assert migrate.revision_of(tx.connection()) == "9999", "an older `stylefoundry migrate` leaves it alone"


@pytest.fixture
def older_url(empty: Database) -> str:
    with empty.write() as tx:
        migrate.upgrade_connection(tx.connection(), REVISIONS[0])
    return empty.engine.url.render_as_string(hide_password=False)


def test_this_release_does_nothing_on_an_older_schema_and_says_what_to_do(older_url: str, tmp_path: Path):
    program = "import sys; from orchestrator.{} import __main__ as m; m.main()"
    for part in ("dispatch", "api"):
        environment = {"STYLEFOUNDRY_DATABASE_URL": older_url, "STYLEFOUNDRY_S3_SECRET_KEY": "secret", "HOME": "/tmp"}
        environment |= {"STYLEFOUNDRY_CACHE_DIR": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64}
        ran = subprocess.run(
            [sys.executable, "-c", program.format(part)], env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode != 0, part
        assert f"has schema {REVISIONS[0]}" in ran.stderr
        assert "run `stylefoundry migrate`" in ran.stderr, part


def test_a_database_without_tables_is_named_so(empty: Database):
    with empty.read() as tx, pytest.raises(migrate.Outdated, match="no tables"):
        migrate.check(tx.connection())
