"""`kill -9` of every process of the service in the middle of a training job, one after the other.

Each time the job ends in `succeeded`, with every metric step once and the bytes of a job that nobody touched.
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

from tests.faults.nodes import members_beside_rank_0, places
from tests.faults.stack import CONFIG, STEPS, Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

MIDDLE = 60  # two checkpoints are there, most of the work is not


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("kill") / "data")
    stack.up()
    stack.push_pictures()
    yield stack
    stack.down()


@pytest.fixture(scope="module")
def untouched(stack: Stack) -> str:
    """The digest of the model of a job that runs through."""
    job = stack.wait_for_end(stack.submit("untouched").id)
    stack.assert_every_step_once(job)
    assert job.attempt == 1
    return stack.model_bytes_digest(job)


def test_the_library_alone_gives_the_same_bytes(stack: Stack, untouched: str, tmp_path: Path):
    """`python -m stylemodels train` over the folders that were pushed, with the job's settings and seed."""
    settings = [f"--set={name}={json.dumps(value)}" for name, value in CONFIG.items()]
    folders = [f"--content={stack.pictures('photos')}", f"--style={stack.pictures('paintings')}"]
    command = [sys.executable, "-m", "stylemodels", "train", "metastyle", *folders, *settings, "--seed=7"]
    subprocess.run([*command, f"--out={tmp_path}"], check=True, capture_output=True, timeout=300)
    assert hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest() == untouched


@pytest.mark.parametrize("part", ["dispatcher", "api", "redis", "s3"])
def test_a_killed_part_costs_no_attempt(stack: Stack, untouched: str, part: str):
    pid = stack.pid_of(part)
    submitted = stack.submit(f"without-{part}")
    stack.wait_for_step(submitted.id, MIDDLE)
    os.kill(pid, signal.SIGKILL)
    job = stack.wait_for_end(submitted.id)
    assert job.status == "succeeded"
    assert job.attempt == 1
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == untouched


@pytest.mark.parametrize("victim", ["worker", "ray", "everything"])
def test_a_killed_worker_resumes_from_a_checkpoint(stack: Stack, untouched: str, victim: str):
    pids = {"ray": stack.pid_of("ray"), "everything": stack.pid_of("supervisor")}
    submitted = stack.submit(f"without-{victim}")
    stack.wait_for_step(submitted.id, MIDDLE)
    os.kill(pids.get(victim) or stack.worker_pid(submitted.id), signal.SIGKILL)
    if victim == "everything":
        stack.up()
    job = stack.wait_for_end(submitted.id)
    assert job.status == "succeeded"
    with stack.client() as client:
        attempts = client.attempts(job.id)
    assert [a.outcome for a in attempts] == ["lost", "succeeded"]
    assert attempts[1].resumed_from is not None
    assert 25 <= attempts[1].resumed_from < STEPS
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == untouched


def test_a_killed_worker_of_a_gang_ends_its_attempt_and_the_next_one_goes_on(stack: Stack):
    options = {"config": {"meta_batch": 2, "steps": 100}, "resources": {"workers": 2, "cpus_per_worker": 1}}
    undisturbed = stack.wait_for_end(stack.submit("gang", **options).id)
    submitted = stack.submit("gang-without-member", **options)
    stack.wait_for_step(submitted.id, MIDDLE)
    (member,) = members_beside_rank_0(stack)
    os.kill(stack.pid_of("dispatcher"), signal.SIGKILL)  # the next one knows the gang by its names alone
    os.kill(member, signal.SIGKILL)

    job = stack.wait_for_end(submitted.id)

    assert job.status == "succeeded"
    with stack.client() as client:
        attempts = client.attempts(job.id)
    assert [(a.outcome, a.workers) for a in attempts] == [("lost", 2), ("succeeded", 2)]
    assert attempts[1].resumed_from in (25, 50, 75)
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == stack.model_bytes_digest(undisturbed)
    wait_until(lambda: not members_beside_rank_0(stack), 30, "no worker of the gang is left")
    wait_until(lambda: places(stack) == [], 60, "no room is kept for a gang that is over")
