"""The servers that the other tests stand on."""

from __future__ import annotations

import psycopg
import pytest
import redis
from sqlalchemy import text

from orchestrator.objects import Missing, Objects
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from tests.servers import PostgresServer, S3Server, ValkeyServer


def test_each_test_gets_an_empty_migrated_database(settings: Settings):
    db = Database(settings.database_url)
    with db.write() as tx:
        assert tx.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    db.dispose()


def test_objects_outlive_the_kill_of_the_s3_server(s3_server: S3Server, settings: Settings):
    objects = Objects(settings)
    objects.put("a/b", b"bytes")
    s3_server.kill()
    s3_server.start()
    assert objects.get("a/b") == b"bytes"
    with pytest.raises(Missing):
        objects.get("a/c")


def test_a_killed_valkey_is_empty_and_at_the_same_address(valkey_server: ValkeyServer):
    with redis.Redis.from_url(valkey_server.url) as client:
        client.set("a", "b")
        valkey_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("a")
        valkey_server.start()
        assert client.get("a") is None


def test_a_killed_postgresql_comes_back_with_what_was_committed(postgres_server: PostgresServer, postgresql_url: str):
    url = postgresql_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    postgres_server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)
    postgres_server.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
