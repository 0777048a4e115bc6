"""Nodes come and go: gangs on a Ray of several nodes, under the service as it is deployed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from stylefoundry.types import Job
from tests.faults.deployed import Deployed, Stores, deployed
from tests.faults.nodes import members_beside_rank_0, one_more, room
from tests.faults.work import STEPS
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MIDDLE = 30
LONG = {"steps": 200, "checkpoint_every": 25, "preview_every": 200}


@pytest.fixture(scope="module")
def service(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Its first node has two cores; its dispatchers are told of no others."""
    with deployed(tmp_path_factory.mktemp("nodes") / "data", stores, "nodes", cpus=None) as started:
        yield started


@pytest.fixture(scope="module")
def database_url(service: Deployed) -> str:
    return service.stores.postgres.url("nodes")


def gang(service: Deployed, name: str, **config: Any) -> Job:
    """Two workers with a node each, or one where there is no more room."""
    resources = {"workers": 2, "min_workers": 1, "cpus_per_worker": 2}
    return service.submit(name, config={"meta_batch": 2} | config, resources=resources)


def assert_resumed(service: Deployed, job: Job, outcome: str) -> None:
    """It succeeded in the next attempt that began, from a checkpoint, and no step is missing or there twice."""
    assert job.status == "succeeded", job
    with service.client() as client:
        attempts = [attempt for attempt in client.attempts(job.id) if attempt.started_at is not None]
    assert [attempt.outcome for attempt in attempts] == [outcome, "succeeded"]
    assert attempts[1].resumed_from is not None
    assert attempts[1].resumed_from >= 25
    service.assert_every_step_once(job)


def test_a_killed_member_of_a_gang_on_two_nodes(service: Deployed, database_url: str) -> None:
    with one_more(service, database_url, cpus=2):
        submitted = gang(service, "without-member")
        service.wait_for_step(submitted.id, MIDDLE)
        os.kill(members_beside_rank_0(service, submitted.id)[0], signal.SIGKILL)

        job = service.wait_for_end(submitted.id)

        assert_resumed(service, job, "lost")


def test_a_killed_node_ends_the_attempt_and_the_job_goes_on_where_there_is_room(
    service: Deployed, database_url: str
) -> None:
    with one_more(service, database_url, cpus=2) as node:
        submitted = gang(service, "without-node", **LONG)
        service.wait_for_step(submitted.id, MIDDLE)
        assert node.has_worker(), "each node has room for one"
        node.kill()
        # Taken back at once; but Ray needs half a minute to see that the node is dead, and an attempt may wait there.
        wait_until(lambda: second_attempt(service, submitted), 150, "the next attempt is at work")
        job = service.wait_for_end(submitted.id)

        assert_resumed(service, job, "lost")


def second_attempt(service: Deployed, submitted: Job) -> bool:
    with service.client() as client:
        job = client.job(submitted.id)
    return job.attempt >= 2 and job.status in ("running", "succeeded")


def test_what_is_at_work_on_a_drained_node_keeps_its_last_step_and_moves(service: Deployed, database_url: str) -> None:
    with one_more(service, database_url, cpus=2) as node:
        submitted = gang(service, "drained", **LONG | {"checkpoint_every": LONG["steps"]})
        service.wait_for_step(submitted.id, MIDDLE)
        assert node.has_worker()
        node.drain()
        wait_until(lambda: room(database_url) == 2, 60, "a node that is about to go has no room")
        wait_until(lambda: second_attempt(service, submitted), 90, "the job goes on")
        assert not node.has_worker()

        assert_resumed(service, service.wait_for_end(submitted.id), "preempted")


def test_a_new_node_gives_room_to_what_waits(service: Deployed, database_url: str) -> None:
    holder = service.submit("holder", config=LONG | {"steps": 1_000_000}, resources={"cpus_per_worker": 2})
    waiting = service.submit("waiting", resources={"cpus_per_worker": 1})
    service.wait_for_step(holder.id, 1)
    with service.client() as client:
        assert client.job(waiting.id).status == "queued"
        with one_more(service, database_url, cpus=1):
            assert service.wait_for_end(waiting.id).status == "succeeded"
        client.cancel(holder.id)
        wait_until(lambda: client.job(holder.id).status == "cancelled", 60, "the holder has stopped")
    assert waiting.progress.total_steps == STEPS


def test_workers_are_placed_on_nodes_that_hold_them_or_wait_and_say_why(service: Deployed, database_url: str) -> None:
    endless = LONG | {"steps": 1_000_000, "meta_batch": 2}
    with service.client() as client, one_more(service, database_url, cpus=3) as node:

        def reason(job: Job) -> str | None:
            waiting = client.job(job.id).waiting
            return None if waiting is None else waiting.reason

        holder = service.submit("holder-of-one", config=endless, resources={"cpus_per_worker": 1})
        service.wait_for_step(holder.id, 1)
        assert not node.has_worker(), "on the smaller node less is left over"
        pair = {"workers": 2, "min_workers": 2, "cpus_per_worker": 2}
        two = service.submit("two-by-two", config=endless, resources=pair)
        four = service.submit("four-on-one", resources={"cpus_per_worker": 4})
        wait_until(lambda: (reason(two), reason(four)) == ("nodes", "size"), 60, "4 of 5 cores are free: 1 and 3")
        client.cancel(holder.id)
        service.wait_for_step(two.id, 1)
        assert node.has_worker()
        assert reason(four) == "size"
        for job in (two, four):
            client.cancel(job.id)
        wait_until(lambda: client.job(two.id).status == "cancelled", 60, "the gang has stopped")
