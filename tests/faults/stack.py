"""A whole embedded stack of real processes, to be killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.embedded import stack
from orchestrator.embedded.ports import free_port
from stylefoundry import Client
from stylefoundry.types import Job
from tests import images
from tests.waiting import wait_until

START_S = 120.0
STEPS = 300
CONFIG = {
    "steps": STEPS,
    "encoder": "random",
    "width": 4,
    "res_blocks": 1,
    "content_size": 32,
    "style_size": 32,
    "batch_size": 1,
    "meta_batch": 1,
    "checkpoint_every": 25,
    "onnx": False,
    "preview_every": 150,
}


class Stack:
    """`stylefoundry up` in a folder, driven by its own command as a user would."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, *, cpus: int | None = 2) -> None:
        """cpus: that jobs may take; None: what Ray has."""
        self.folder = folder
        self.environment = {"STYLEFOUNDRY_WARM_ENCODER": "random"} | dict(environment or {})
        if cpus is not None:
            self.environment["STYLEFOUNDRY_CPUS"] = str(cpus)

    def up(self) -> None:
        stack.find_or_create(self.folder, free_port())  # two first starts at once may not choose the same port
        self.command("up", "--detach", timeout_s=START_S)

    def down(self) -> None:
        self.command("down", timeout_s=60)

    def command(self, *arguments: str, timeout_s: float = 60, check: bool = True) -> str:
        program = [
            sys.executable,
            "-m",
            "stylefoundry.cli",
            arguments[0],
            "--data-dir",
            str(self.folder),
            *arguments[1:],
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("STYLEFOUNDRY_", "RAY_"))}
        ran = subprocess.run(
            program, env=environment | self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert ran.returncode == 0 or not check, f"{program} gave {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("status", "--json"))
        return answer

    def client(self) -> Client:
        return Client(data_dir=self.folder, patience_s=90)

    def pid_of(self, part: str) -> int:
        """Of a part, or of the supervisor. Ask before the moment comes: the command takes a second."""
        status = self.status()
        return int(status["pid"] if part == "supervisor" else status["parts"][part]["pid"])

    # --- work for it ---

    def push_pictures(self) -> None:
        """Two small datasets, `photos` and `paintings`."""
        with self.client() as client:
            for name, count, seed in (("photos", 8, 0), ("paintings", 4, 100)):
                folder = self.pictures(name)
                folder.mkdir()
                for n in range(count):
                    (folder / f"{n}.jpg").write_bytes(images.jpeg(48, 40, seed=seed + n))
                client.push_dataset(name, folder)

    def pictures(self, dataset: str) -> Path:
        """The folder that a dataset was pushed from."""
        return self.folder.parent / f"{self.folder.name}-{dataset}"

    def submit(self, name: str, **others: Any) -> Job:
        config = CONFIG | others.pop("config", {})
        with self.client() as client:
            return client.submit(
                "metastyle",
                "train",
                datasets={"content": "photos", "style": "paintings"},
                name=name,
                config=config,
                seed=7,
                **others,
            )

    def wait_for_step(self, job_id: str, step: int, timeout_s: float = 90) -> Job:
        """The job once it has finished `step` steps; it must not have ended before."""
        with self.client() as client:

            def reached() -> Job | None:
                job = client.job(job_id)
                assert job.status not in ("failed", "cancelled"), job
                return job if job.progress.step >= step else None

            return wait_until(reached, timeout_s, f"{job_id} has done step {step}")

    def wait_for_end(self, job_id: str) -> Job:
        with self.client() as client:
            return client.wait(job_id)

    def worker_pid(self, job_id: str) -> int:
        with self.client() as client:
            pid = client.attempts(job_id)[-1].pid
        assert pid is not None
        return pid

    def model_bytes_digest(self, job: Job) -> str:
        """sha256 of the job's model.safetensors as the object store gives it."""
        with self.client() as client:
            assert job.model is not None
            name, version = job.model.split("@")
            folder = client.fetch_model(name, int(version), self.folder.parent / f"model-{name}-{version}")
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    def assert_every_step_once(self, job: Job) -> None:
        """Every training term has one value a step, from the first step to the last."""
        with self.client() as client:
            series = client.metrics(job.id, max_points=100_000)
            events = client.events(job.id)
        terms = [s for s in series if not s.name.startswith("validation_")]
        assert {s.name for s in terms} >= {"style_loss", "content_loss"}
        for one in terms:
            assert [step for step, _ in one.points] == list(range(1, job.progress.total_steps + 1)), one.name
        ids = [event.id for event in events]
        assert ids == list(range(1, len(ids) + 1))
        assert [e.event for e in events if e.event == "status"][-1] == events[-1].event == "status"


@contextmanager
def running(folder: Path, environment: Mapping[str, str], *, cpus: int | None = 2) -> Iterator[Stack]:
    """A stack with pictures pushed, for as long as the block lasts."""
    started = Stack(folder, environment, cpus=cpus)
    started.up()
    try:
        started.push_pictures()
        yield started
    finally:
        started.down()


def stay_away(seconds: float) -> None:
    """Let time pass: an outage is a length of time, there is no event to wait for."""
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > ends_at, seconds + 5, "the outage is over")
