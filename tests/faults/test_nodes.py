"""Nodes come and go: gangs on a Ray of several nodes, with PostgreSQL, Valkey and S3 as servers of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orchestrator.store import migrate
from stylefoundry.types import Job
from tests.faults.nodes import members_beside_rank_0, one_more, room
from tests.faults.stack import STEPS, Stack, running
from tests.servers import PostgresServer, S3Server, ValkeyServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MIDDLE = 30
LONG = {"steps": 200, "checkpoint_every": 25, "preview_every": 200}


@pytest.fixture(scope="module")
def database_url(_postgres: PostgresServer) -> Iterator[str]:
    _postgres.start()
    admin = _postgres.url("postgres").replace("+psycopg", "")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE nodes")
        migrate.upgrade(_postgres.url("nodes"))
        yield _postgres.url("nodes")
        connection.execute("DROP DATABASE nodes WITH (FORCE)")


@pytest.fixture(scope="module")
def stack(
    database_url: str, _valkey: ValkeyServer, _s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose own node has two cores; its dispatcher is told of no others."""
    _valkey.start()
    _s3.start()
    _s3.client().make_bucket(bucket_name="nodes")
    environment = {
        "STYLEFOUNDRY_DATABASE_URL": database_url,
        "STYLEFOUNDRY_REDIS_URL": _valkey.url,
        "STYLEFOUNDRY_S3_URL": _s3.url,
        "STYLEFOUNDRY_S3_BUCKET": "nodes",
        "STYLEFOUNDRY_S3_ACCESS_KEY": _s3.access_key,
        "STYLEFOUNDRY_S3_SECRET_KEY": _s3.secret_key,
    }
    with running(tmp_path_factory.mktemp("nodes") / "data", environment, cpus=None) as started:
        yield started


def gang(stack: Stack, name: str, **config: Any) -> Job:
    """Two workers, or one where there is no more room."""
    resources = {"workers": 2, "min_workers": 1, "cpus_per_worker": 1}
    return stack.submit(name, config={"meta_batch": 2} | config, resources=resources)


def assert_resumed(stack: Stack, job: Job, outcome: str) -> None:
    """It succeeded in a second attempt that went on from a checkpoint, and no step is missing or there twice."""
    assert job.status == "succeeded", job
    with stack.client() as client:
        attempts = client.attempts(job.id)
    assert [attempt.outcome for attempt in attempts] == [outcome, "succeeded"]
    assert attempts[1].resumed_from is not None
    assert attempts[1].resumed_from >= 25
    stack.assert_every_step_once(job)


def test_a_killed_member_of_a_gang_on_two_nodes(stack: Stack, database_url: str) -> None:
    with one_more(stack, database_url, cpus=2):
        submitted = gang(stack, "without-member")
        stack.wait_for_step(submitted.id, MIDDLE)
        os.kill(members_beside_rank_0(stack)[0], signal.SIGKILL)

        job = stack.wait_for_end(submitted.id)

        assert_resumed(stack, job, "lost")


def test_a_killed_node_ends_the_attempt_and_the_job_goes_on_where_there_is_room(
    stack: Stack, database_url: str
) -> None:
    with one_more(stack, database_url, cpus=2) as node:
        submitted = gang(stack, "without-node", **LONG)
        stack.wait_for_step(submitted.id, MIDDLE)
        assert node.has_worker(), "a gang without GPUs is spread over the nodes"
        node.kill()
        # Taken back at once; but Ray needs half a minute to see that the node is dead, and may place a worker there.
        wait_until(lambda: second_attempt(stack, submitted), 150, "the next attempt is at work")
        job = stack.wait_for_end(submitted.id)

        assert_resumed(stack, job, "lost")


def second_attempt(stack: Stack, submitted: Job) -> bool:
    with stack.client() as client:
        job = client.job(submitted.id)
    return job.attempt == 2 and job.status in ("running", "succeeded")


def test_what_is_at_work_on_a_drained_node_keeps_its_last_step_and_moves(stack: Stack, database_url: str) -> None:
    with one_more(stack, database_url, cpus=2) as node:
        submitted = gang(stack, "drained", **LONG | {"checkpoint_every": LONG["steps"]})
        stack.wait_for_step(submitted.id, MIDDLE)
        assert node.has_worker()
        node.drain()
        wait_until(lambda: room(database_url) == 2, 60, "a node that is about to go has no room")
        wait_until(lambda: second_attempt(stack, submitted), 90, "the job goes on")
        assert not node.has_worker()

        assert_resumed(stack, stack.wait_for_end(submitted.id), "preempted")


def test_a_new_node_gives_room_to_what_waits(stack: Stack, database_url: str) -> None:
    holder = stack.submit("holder", config=LONG | {"steps": 1_000_000}, resources={"cpus_per_worker": 2})
    waiting = stack.submit("waiting", resources={"cpus_per_worker": 1})
    stack.wait_for_step(holder.id, 1)
    with stack.client() as client:
        assert client.job(waiting.id).status == "queued"
        with one_more(stack, database_url, cpus=1):
            assert stack.wait_for_end(waiting.id).status == "succeeded"
        client.cancel(holder.id)
        wait_until(lambda: client.job(holder.id).status == "cancelled", 60, "the holder has stopped")
    assert waiting.progress.total_steps == STEPS
