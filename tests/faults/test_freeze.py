"""Workers that are frozen, stores that are away, clocks that jump."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress

import psutil
import psycopg
import pytest
import redis

from tests.faults.stack import Stack, running
from tests.faults.work import stay_away
from tests.servers import PostgresServer, S3Server, ValkeyServer
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

LEASE_S = 2.0
MIDDLE = 30


@pytest.fixture
def stack(external: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On stores that the test can take away, with leases short enough to be outlived."""
    short = {"STYLEFOUNDRY_LEASE_S": str(LEASE_S), "STYLEFOUNDRY_RENEW_S": "0.2"}
    with running(tmp_path_factory.mktemp("freeze") / "data", external | short) as stack:
        yield stack


def test_frozen_workers_missing_stores_and_jumping_clocks_do_no_harm(
    stack: Stack, postgresql_url: str, postgres_server: PostgresServer, valkey_server: ValkeyServer, s3_server: S3Server
):
    """One stack for all of them: each takes a Ray to start."""
    untouched = stack.model_bytes_digest(stack.wait_for_end(stack.submit("untouched").id))
    _a_worker_frozen_past_its_lease_and_thawed_writes_nothing_that_counts(stack, untouched)
    _a_redis_that_is_emptied_and_away_costs_nothing(stack, valkey_server, untouched)
    _an_object_store_that_is_away_for_leases_costs_no_attempt(stack, s3_server, untouched)
    _a_clock_set_an_hour_forward_costs_no_attempt(stack, postgresql_url, untouched)
    _a_database_that_is_away_for_leases_costs_no_attempt(stack, postgres_server, untouched)


def _a_worker_frozen_past_its_lease_and_thawed_writes_nothing_that_counts(stack: Stack, untouched: str) -> None:
    submitted = stack.submit("frozen")
    stack.wait_for_step(submitted.id, MIDDLE)
    frozen = stack.worker_pid(submitted.id)
    os.kill(frozen, signal.SIGSTOP)
    with stack.client() as client:
        wait_until(lambda: client.attempts(submitted.id)[0].outcome == "lost", 60, "the frozen attempt is given up")
        with suppress(ProcessLookupError):  # a dispatcher that sweeps at this very moment has ended it already
            os.kill(frozen, signal.SIGCONT)
        job = client.wait(submitted.id)
        attempts, events = client.attempts(job.id), client.events(job.id)
    assert [a.outcome for a in attempts] == ["lost", "succeeded"]
    second = next(e.id for e in events if e.attempt == 2)
    assert [e for e in events if e.attempt == 1 and e.id > second] == []
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == untouched
    wait_until(lambda: not psutil.pid_exists(frozen), 60, "the superseded worker is gone")


def _a_redis_that_is_emptied_and_away_costs_nothing(stack: Stack, valkey: ValkeyServer, untouched: str) -> None:
    submitted = stack.submit("no-redis")
    stack.wait_for_step(submitted.id, MIDDLE)
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    valkey.kill()
    second = stack.submit("started-without-redis")
    _assert_untouched(stack, submitted.id, untouched)
    _assert_untouched(stack, second.id, untouched)
    valkey.start()


def _an_object_store_that_is_away_for_leases_costs_no_attempt(stack: Stack, s3: S3Server, untouched: str) -> None:
    submitted = stack.submit("no-s3")
    stack.wait_for_step(submitted.id, MIDDLE)
    s3.kill()
    stack.wait_for_step(submitted.id, MIDDLE + 100)
    stay_away(3 * LEASE_S)
    s3.start()
    _assert_untouched(stack, submitted.id, untouched)


def _a_database_that_is_away_for_leases_costs_no_attempt(stack: Stack, sql: PostgresServer, untouched: str) -> None:
    submitted = stack.submit("no-sql")
    stack.wait_for_step(submitted.id, MIDDLE)
    sql.kill()
    stay_away(3 * LEASE_S)
    sql.start()
    _assert_untouched(stack, submitted.id, untouched)


def _a_clock_set_an_hour_forward_costs_no_attempt(stack: Stack, url: str, untouched: str) -> None:
    submitted = stack.submit("an-hour-later")
    stack.wait_for_step(submitted.id, MIDDLE)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE clock.offset_s SET value = 3600")
    _assert_untouched(stack, submitted.id, untouched)


def _assert_untouched(stack: Stack, job_id: str, untouched: str) -> None:
    job = stack.wait_for_end(job_id)
    assert job.attempt == 1
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == untouched
