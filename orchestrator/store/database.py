"""Transactions on SQLite and PostgreSQL, with the same code above them.

    with db.write() as tx: …     one short transaction; committed when the block ends, rolled back on any error
    with db.read() as tx: …

SQLite has one writer at a time: every write transaction of every process holds one lock file around
`BEGIN IMMEDIATE`. Writers then queue fairly instead of sleeping in SQLite's own back-off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sqlalchemy import Double, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.functions import FunctionElement

# Writes what belongs to the request that is under way along with its transaction; what it returns is called afterwards.
BeforeCommit = Callable[[Session], Callable[[], None] | None]
before_commit: ContextVar[BeforeCommit | None] = ContextVar("before_commit", default=None)


class db_now(FunctionElement[float]):
    """Now by the database's clock, seconds since 1970."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


class Database:
    """One engine and the two kinds of transaction. Safe to share between threads, not across a fork."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.engine = _sqlite_engine(url, pool_size) if url.startswith("sqlite") else _postgresql_engine(url, pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._lock_path = f"{self.engine.url.database}.lock" if self.is_sqlite else None

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may change rows.

        Raises OperationalError when the database cannot be reached; nothing was changed then, or (PostgreSQL, if the
        connection broke during COMMIT) all of it: writers are written to be repeated.
        """
        with self._writer(), self._session() as session:
            if self.is_sqlite:
                session.execute(text("BEGIN IMMEDIATE"))
            yield session
            hook = before_commit.get()
            committed = hook(session) if hook is not None else None
            session.commit()
            if committed is not None:
                committed()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with self._session() as session:
            if self.is_sqlite:
                session.execute(text("BEGIN"))
            yield session  # closed without a rollback, which would expire the rows that were read

    def dispose(self) -> None:
        self.engine.dispose()

    def _session(self) -> Session:
        # Nobody goes on with rows that an UPDATE in the same transaction has changed: looking for them costs time.
        return Session(self.engine, expire_on_commit=False, execution_options={"synchronize_session": False})

    @contextmanager
    def _writer(self) -> Iterator[None]:
        if self._lock_path is None:
            yield
            return
        # An own descriptor for each writer: flock then also holds between threads, and ends with the process.
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def is_outage(error: BaseException) -> bool:
    """True for errors of the connection or the server, which pass; false for errors of our SQL."""
    return isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    engine = create_engine(
        url, poolclass=QueuePool, pool_size=pool_size, max_overflow=32, connect_args={"check_same_thread": False}
    )
    path = engine.url.database
    if not path or path == ":memory:":
        raise ValueError(
            f"database_url {url!r}: an SQLite database needs a file, e.g. sqlite:////var/lib/stylefoundry.db"
        )
    Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=30000",
            "cache_size=-16000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgresql_engine(url: str, pool_size: int) -> Engine:
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=32,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "options": "-c lock_timeout=10000 -c statement_timeout=60000",
            # A host that vanished without a word is noticed within seconds, not after the kernel's quarter of an hour.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 15000,
        },
    )
