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


def upgrade(database_url: str) -> None:
    """Create or alter tables up to the newest revision. Raises OperationalError when the database cannot be reached."""
    db = Database(database_url, pool_size=1)
    try:
        with db.write() as tx:
            if not db.is_sqlite:
                tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
            upgrade_connection(tx.connection())
    finally:
        db.dispose()


def upgrade_connection(connection: Connection, revision: str = "head") -> None:
    """The same inside the transaction that `connection` is in."""
    command.upgrade(_config(connection), revision)


def is_current(connection: Connection) -> bool:
    """True when the database has the newest revision."""
    newest = ScriptDirectory.from_config(_config(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
