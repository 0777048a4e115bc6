"""Real servers, started once per test process when the first test asks; a fresh database and bucket for each test.

`database_url` and all that is built on it (`settings`) runs a test twice: on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import redis
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from orchestrator import traces
from orchestrator.settings import Settings
from orchestrator.store import migrate
from tests.servers import PostgresServer, S3Server, ValkeyServer

TEMPLATE = "template_migrated"
_numbers = itertools.count(1)


class Bucket(NamedTuple):
    """A bucket of its own on the session's S3 server."""

    url: str
    access_key: str
    secret_key: str
    name: str


SLOW_TIMEOUT_S = 3600  # of tests that are marked slow and say nothing else


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("STYLEFOUNDRY_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def spans() -> InMemorySpanExporter:
    """What was traced. OpenTelemetry takes a provider once in a process's life."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=traces.Ids())  # type: ignore[arg-type]
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where the servers keep their data. PostgreSQL's other user must be able to enter it."""
    folder = Path(tempfile.mkdtemp(prefix="stylefoundry-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _valkey(server_folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(server_folder / "valkey")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _s3(server_folder: Path) -> Iterator[S3Server]:
    server = S3Server(server_folder / "s3")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _postgres(server_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(server_folder / "postgres")
    yield server
    server.stop()


@pytest.fixture
def valkey_server(_valkey: ValkeyServer) -> Iterator[ValkeyServer]:
    """The session's Valkey, running and empty. A test may kill, freeze and start it."""
    _valkey.start()
    with redis.Redis.from_url(_valkey.url) as client:
        client.flushall()
    yield _valkey
    _valkey.thaw()


@pytest.fixture
def s3_server(_s3: S3Server) -> Iterator[S3Server]:
    """The session's S3 server, running. A test may kill, freeze and start it."""
    _s3.start()
    yield _s3
    _s3.thaw()


@pytest.fixture
def postgres_server(_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The session's PostgreSQL, running. A test may kill, freeze and start it."""
    _postgres.start()
    yield _postgres
    _postgres.thaw()


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    return valkey_server.url


@pytest.fixture
def s3(s3_server: S3Server) -> Bucket:
    """An empty bucket."""
    bucket = Bucket(s3_server.url, s3_server.access_key, s3_server.secret_key, f"test-{next(_numbers)}")
    s3_server.client().make_bucket(bucket_name=bucket.name)
    return bucket


@pytest.fixture(scope="session")
def _sqlite_template(server_folder: Path) -> Path:
    path = server_folder / "template.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated, empty SQLite database."""
    path = tmp_path / "test.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def _postgres_template(_postgres: PostgresServer) -> str:
    _postgres.start()
    _execute(_postgres, f"CREATE DATABASE {TEMPLATE}")
    migrate.upgrade(_postgres.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer, _postgres_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database."""
    name = f"test_{next(_numbers)}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {_postgres_template}")
    yield postgres_server.url(name)
    postgres_server.thaw()
    postgres_server.start()
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def settings(database_url: str, redis_url: str, s3: Bucket, tmp_path: Path) -> Settings:
    """Settings for the session's servers and this test's own database and bucket."""
    return Settings(
        database_url=database_url,
        redis_url=SecretStr(redis_url),
        s3_url=s3.url,
        s3_bucket=s3.name,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
        admin_key=SecretStr("sf_test-administrator"),
        cache_dir=tmp_path / "cache",
        weights_dir=tmp_path / "weights",
        log_json=False,
    )


def _execute(server: PostgresServer, statement: str) -> None:
    url = server.url("postgres").replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
