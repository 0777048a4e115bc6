"""Bring a database to the newest schema.

The whole way is one transaction, and one process at a time goes it: SQLite by the writers' lock file, PostgreSQL by an
advisory lock. Whoever comes second finds nothing left to do.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from orchestrator.store.database import Database

ADVISORY_LOCK = 0x5F0D  # any number of our own


class Outdated(Exception):
    """The database's schema is older than this release; the message names the command that brings it further."""


def upgrade(database_url: str) -> None:
    """Create or alter tables up to the newest revision; one that a newer release has brought further is left alone.

    Raises OperationalError when the database cannot be reached.
    """
    db = Database(database_url, pool_size=1)
    try:
        with db.write() as tx:
            if not db.is_sqlite:
                tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
            if not _is_newer(tx.connection()):
                upgrade_connection(tx.connection())
    finally:
        db.dispose()


def upgrade_connection(connection: Connection, revision: str = "head") -> None:
    """The same inside the transaction that `connection` is in."""
    command.upgrade(_config(connection), revision)


def is_current(connection: Connection) -> bool:
    """True when the database has the newest revision that this release knows."""
    return revision_of(connection) == newest(connection)


def check(connection: Connection) -> None:
    """Raises Outdated when the database lacks what this release needs.

    A database that a newer release has migrated is fine: its migrations leave this release what it knows, and while
    replicas are replaced one by one both work on it.
    """
    if not is_current(connection) and not _is_newer(connection):
        found = revision_of(connection)
        has = "no tables" if found is None else f"schema {found}"
        raise Outdated(f"the database has {has}, this release needs {newest(connection)}: run `stylefoundry migrate`")


def newest(connection: Connection) -> str | None:
    """The newest revision that this release knows."""
    return _scripts(connection).get_current_head()


def revision_of(connection: Connection) -> str | None:
    """The revision of the database; None for one without tables."""
    return MigrationContext.configure(connection).get_current_revision()


def _is_newer(connection: Connection) -> bool:
    """True when the database has a revision of a release after this one: nobody here knows it."""
    known = {script.revision for script in _scripts(connection).walk_revisions()}
    found = revision_of(connection)
    return found is not None and found not in known


def _scripts(connection: Connection) -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(connection))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
