"""Two API replicas and two dispatchers on PostgreSQL, Valkey, S3 and a Ray of their own, each its own process."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stylefoundry import Client
from stylefoundry.types import Job
from tests.cluster.service import Service
from tests.conftest import Bucket
from tests.faults.deployed import KEY, Stores, deployed
from tests.faults.work import CONFIG
from tests.flow.test_http_only import from_pictures_to_a_stylised_picture
from tests.servers import PostgresServer, RayServer, S3Server, ValkeyServer
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
BODY: dict[str, Any] = {
    "method": "metastyle",
    "task": "train",
    "config": CONFIG | {"steps": 100, "preview_every": 50},
    "datasets": {"content": "photos", "style": "paintings"},
    "seed": 7,
}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, _postgres: PostgresServer, _valkey: ValkeyServer, _s3: S3Server
) -> Iterator[Service]:
    with deployed(tmp_path_factory.mktemp("cluster"), Stores(_postgres, _valkey, _s3), "replicas") as running:
        yield running.service


@pytest.fixture
def bucket(_s3: S3Server) -> Bucket:
    """Where the service keeps what it has."""
    return Bucket(_s3.url, _s3.access_key, _s3.secret_key, "replicas")


def submit(client: Client, name: str, **config: int) -> Job:
    body = BODY | {"config": BODY["config"] | config}
    return client.submit(**body, name=name)


def figures(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_either_replica_takes_jobs_and_tells_their_events(service: Service):
    jobs = []
    for n in (0, 1):
        with service.client(n) as client:
            jobs.append(submit(client, f"through-{n}"))
    for n, job in enumerate(jobs):
        with service.client(1 - n) as client:
            done = client.wait(job.id)
            told = [event.id for event in client.follow(job.id)]
        assert done.attempt == 1
        assert told == list(range(1, len(told) + 1))


def test_one_key_makes_one_job_whichever_replica_hears_it(service: Service):
    made = set()
    for n in (0, 1, 0):
        with service.client(n) as client:
            headers = {"Idempotency-Key": "the-same"}
            made.add(client.http.request("POST", "/v1/jobs", json=BODY, headers=headers).json()["id"])
    assert len(made) == 1
    with service.client(0) as client:
        client.wait(made.pop())


def test_a_plain_http_client_gets_from_pictures_to_a_stylised_picture(service: Service, bucket: Bucket):
    from_pictures_to_a_stylised_picture(service.apis[1].url, KEY, bucket)


def test_replicas_tell_their_figures(service: Service):
    told = [figures(api.url) for api in service.apis]
    for name in ('stylefoundry_jobs{status="succeeded"}', "stylefoundry_steps_total"):
        assert told[0][name] == told[1][name] > 0, name
    started = [figures(dispatcher.url) for dispatcher in service.dispatchers]
    assert all(one["stylefoundry_ray_connected"] == 1 for one in started)
    assert sum(one["stylefoundry_attempts_started_total"] for one in started) >= 3


def test_a_job_does_not_notice_the_death_of_a_dispatcher_and_of_an_api(service: Service):
    with service.client(0) as client:
        job = submit(client, "survivor", steps=300)
    with service.client(1) as client:
        wait_until(lambda: client.job(job.id).progress.step >= 60, 120, "the job is under way")
        service.dispatchers[0].kill()
        service.apis[0].kill()
        done = client.wait(job.id)
        attempts = client.attempts(job.id)
        events = [event.id for event in client.events(job.id)]
        after = client.wait(submit(client, "afterwards").id)
    assert (done.status, done.attempt) == ("succeeded", 1)
    assert [attempt.outcome for attempt in attempts] == ["succeeded"]
    assert events == list(range(1, len(events) + 1))
    assert after.status == "succeeded", "the dispatcher that is left starts the next one"


def test_the_token_is_in_no_list_of_processes_and_in_no_log(service: Service):
    logs = "".join(replica.log.read_text() for replica in (*service.apis, *service.dispatchers))
    commands = " ".join(
        path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )
    for secret in (RayServer.token, KEY):
        assert secret not in logs
        assert not re.search(re.escape(secret), commands)
