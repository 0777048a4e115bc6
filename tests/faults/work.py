"""Work for a running service, and what must hold of it whatever was killed meanwhile."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stylefoundry import Client
from stylefoundry.types import Job
from tests import images
from tests.waiting import wait_until

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


class Work(ABC):
    """A service that runs, with its jobs."""

    folder: Path  # of its own; what was pushed lies beside it

    @abstractmethod
    def client(self) -> Client:
        """Of an administrator, patient enough for a restart."""

    @abstractmethod
    def victim(self, part: str) -> Callable[[], None]:
        """What ends `part` with SIGKILL; an operator's restart follows by itself.

        part: "api", "dispatcher", "redis", "s3", "ray" or "everything". Ask before the moment comes: it takes a second.
        """

    @property
    @abstractmethod
    def ray_folder(self) -> Path:
        """The working folder of Ray's processes."""

    @abstractmethod
    def ray_address(self) -> str:
        """Where a node or a driver joins Ray."""

    @abstractmethod
    def ray_environment(self) -> dict[str, str]:
        """What a process needs in its environment to be let in by Ray, with the settings of workers."""

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


def stay_away(seconds: float) -> None:
    """Let time pass: an outage is a length of time, there is no event to wait for."""
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > ends_at, seconds + 5, "the outage is over")
