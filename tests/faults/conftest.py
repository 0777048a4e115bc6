"""Stores that a test can take away from under a stack."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import Bucket
from tests.faults.deployed import Stores
from tests.servers import PostgresServer, S3Server, ValkeyServer


@pytest.fixture(scope="session")
def stores(_postgres: PostgresServer, _valkey: ValkeyServer, _s3: S3Server) -> Stores:
    """The session's servers, to be started by who needs them."""
    return Stores(_postgres, _valkey, _s3)


@pytest.fixture
def external(
    postgresql_url: str, postgres_server: PostgresServer, valkey_server: ValkeyServer, s3: Bucket
) -> dict[str, str]:
    """Settings for a stack whose PostgreSQL, Valkey and S3 are the test's; API, dispatcher and Ray are its own."""
    _let_the_clock_be_set(postgresql_url)
    return {
        "STYLEFOUNDRY_DATABASE_URL": postgresql_url,
        "STYLEFOUNDRY_REDIS_URL": valkey_server.url,
        "STYLEFOUNDRY_S3_URL": s3.url,
        "STYLEFOUNDRY_S3_BUCKET": s3.name,
        "STYLEFOUNDRY_S3_ACCESS_KEY": s3.access_key,
        "STYLEFOUNDRY_S3_SECRET_KEY": s3.secret_key,
    }


def _let_the_clock_be_set(url: str) -> None:
    """A `clock_timestamp()` in front of PostgreSQL's own, with an offset that a test can change."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA clock")
        connection.execute("CREATE TABLE clock.offset_s (value double precision)")
        connection.execute("INSERT INTO clock.offset_s VALUES (0)")
        connection.execute(
            "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT value FROM clock.offset_s))'"
        )
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET search_path = clock, pg_catalog, public")
