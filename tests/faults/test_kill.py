"""`kill -9` of every process of the service in the middle of a training job, one after the other.

Each time the job ends in `succeeded`, with every metric step once and the bytes of a job that nobody touched: of an
embedded stack, and of the service as it is deployed, where both APIs or both dispatchers die at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.deployed import Stores, deployed
from tests.faults.nodes import members_beside_rank_0, places
from tests.faults.stack import running
from tests.faults.work import CONFIG, STEPS, Work
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

MIDDLE = 60  # two checkpoints are there, most of the work is not


@pytest.fixture(scope="module", params=["embedded", pytest.param("deployed", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stores: Stores) -> Iterator[Work]:
    folder = tmp_path_factory.mktemp("kill") / "data"
    with running(folder, {}) if request.param == "embedded" else deployed(folder, stores, "kill") as started:
        yield started


@pytest.fixture(scope="module")
def untouched(service: Work) -> str:
    """The digest of the model of a job that runs through."""
    job = service.wait_for_end(service.submit("untouched").id)
    service.assert_every_step_once(job)
    assert job.attempt == 1
    return service.model_bytes_digest(job)


def test_the_library_alone_gives_the_same_bytes(service: Work, untouched: str, tmp_path: Path):
    """`python -m stylemodels train` over the folders that were pushed, with the job's settings and seed."""
    settings = [f"--set={name}={json.dumps(value)}" for name, value in CONFIG.items()]
    folders = [f"--content={service.pictures('photos')}", f"--style={service.pictures('paintings')}"]
    command = [sys.executable, "-m", "stylemodels", "train", "metastyle", *folders, *settings, "--seed=7"]
    subprocess.run([*command, f"--out={tmp_path}"], check=True, capture_output=True, timeout=300)
    assert hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest() == untouched


@pytest.mark.parametrize("part", ["dispatcher", "api", "redis", "s3"])
def test_a_killed_part_costs_no_attempt(service: Work, untouched: str, part: str):
    kill = service.victim(part)
    submitted = service.submit(f"without-{part}")
    service.wait_for_step(submitted.id, MIDDLE)
    kill()
    job = service.wait_for_end(submitted.id)
    assert job.status == "succeeded"
    assert job.attempt == 1
    service.assert_every_step_once(job)
    assert service.model_bytes_digest(job) == untouched


@pytest.mark.parametrize("victim", ["worker", "ray", "everything"])
def test_a_killed_worker_resumes_from_a_checkpoint(service: Work, untouched: str, victim: str):
    kill = None if victim == "worker" else service.victim(victim)
    submitted = service.submit(f"without-{victim}")
    service.wait_for_step(submitted.id, MIDDLE)
    if kill is None:
        os.kill(service.worker_pid(submitted.id), signal.SIGKILL)
    else:
        kill()
    job = service.wait_for_end(submitted.id)
    assert job.status == "succeeded"
    with service.client() as client:
        attempts = client.attempts(job.id)
    assert [a.outcome for a in attempts] == ["lost", "succeeded"]
    assert attempts[1].resumed_from is not None
    assert 25 <= attempts[1].resumed_from < STEPS
    service.assert_every_step_once(job)
    assert service.model_bytes_digest(job) == untouched


def test_a_killed_worker_of_a_gang_ends_its_attempt_and_the_next_one_goes_on(service: Work):
    options = {"config": {"meta_batch": 2, "steps": 100}, "resources": {"workers": 2, "cpus_per_worker": 1}}
    undisturbed = service.wait_for_end(service.submit("gang", **options).id)
    kill_dispatcher = service.victim("dispatcher")
    submitted = service.submit("gang-without-member", **options)
    service.wait_for_step(submitted.id, MIDDLE)
    (member,) = members_beside_rank_0(service, submitted.id)
    kill_dispatcher()  # the next one knows the gang by its names alone
    os.kill(member, signal.SIGKILL)

    job = service.wait_for_end(submitted.id)

    assert job.status == "succeeded"
    with service.client() as client:
        attempts = client.attempts(job.id)
    assert [(a.outcome, a.workers) for a in attempts] == [("lost", 2), ("succeeded", 2)]
    assert attempts[1].resumed_from in (25, 50, 75)
    service.assert_every_step_once(job)
    assert service.model_bytes_digest(job) == service.model_bytes_digest(undisturbed)
    wait_until(lambda: not members_beside_rank_0(service, submitted.id), 30, "no worker of the gang is left")
    wait_until(lambda: places(service) == [], 60, "no room is kept for a gang that is over")
