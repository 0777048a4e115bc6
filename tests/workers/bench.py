"""A bench for attempts: datasets, jobs and models made by the real parts, in this process, without Ray."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
from sqlalchemy import select, update
from torch import Tensor

from orchestrator.ids import new_id
from orchestrator.objects import upload_key
from orchestrator.states import Move
from orchestrator.store import claims, datasets, jobs, queue
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Attempt, Checkpoint, DatasetVersion, Event, Job, Metric, ModelVersion, Tenant
from stylemodels.cost import some_classes
from stylemodels.methods import find_task
from stylemodels.settings import as_json, build
from tests.images import jpeg
from workers.attempt import run_attempt
from workers.inputs import Encoders
from workers.platform import Platform
from workers.work import Host

TENANT = "tenant_1"
SMALL: Mapping[str, Any] = {
    "encoder": "random",
    "width": 4,
    "res_blocks": 1,
    "content_size": 32,
    "style_size": 32,
    "batch_size": 1,
    "steps": 6,
    "checkpoint_every": 2,
    "onnx": False,
    "preview_every": 3,
}
TRAIN: Mapping[str, Any] = {**SMALL, "meta_batch": 1, "inner_lr": 0.001, "style_weight": 10.0}
ADAPT: Mapping[str, Any] = {**SMALL, "style_weight": 10.0, "preview_images": 1, "preview_steps": []}


class Bench:
    """One tenant on one platform, with a worker's process in our hands."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.db, self.objects = platform.db, platform.objects
        self.encoders = Encoders(platform)
        self._numbers = itertools.count(1)
        with self.db.write() as tx:
            tx.add(Tenant(id=TENANT, name="tests", created_at=0.0))
            claims.set_room(tx, cpus=8, gpus=0)

    # --- datasets ---

    def upload(self, content: bytes, *, sha256: str | None = None) -> str:
        """As a presigned PUT leaves it."""
        digest = sha256 or hashlib.sha256(content).hexdigest()
        self.objects.put(upload_key(TENANT, digest), content)
        return digest

    def commit(self, name: str, files: Mapping[str, str], *, kind: str = "images") -> int:
        """A version of these files (path -> sha256), still to be ingested."""
        listed = [{"path": path, "sha256": sha256} for path, sha256 in files.items()]
        with self.db.write() as tx:
            planned = datasets.plan(tx, TENANT, name, datasets.list_digest(kind, listed))
            datasets.commit(tx, TENANT, name, planned.version, kind, listed)
        return planned.version

    def dataset(self, name: str, pictures: Mapping[str, bytes], *, kind: str = "images") -> DatasetVersion:
        """A version that went through upload, commit and ingest, whatever became of it."""
        version = self.commit(name, {path: self.upload(content) for path, content in pictures.items()}, kind=kind)
        assert self.run(self.claim()) == "succeeded"
        return self.version(name, version)

    def version(self, name: str, version: int) -> DatasetVersion:
        with self.db.read() as tx:
            return tx.get_one(DatasetVersion, (TENANT, name, version))

    # --- jobs ---

    def submit(self, task: str, *, config: Mapping[str, Any], base: ModelVersion | None = None, **changes: Any) -> str:
        """A queued job on the datasets `photos@1` and `paintings@1`, and on new ones for what has classes."""
        method, task_name = find_task(task)
        task_class = method.tasks[task_name]
        complete = as_json(build(task_class.Config, config, None if base is None else base.config))
        roles = {*task_class.needs.datasets, *(["style"] if task_class.needs.style_image else [])}
        roles = roles if "datasets" not in changes else set()
        classes = some_classes(
            task_class.needs, build(task_class.Config, config, None if base is None else base.config)
        )
        job_id = new_id("job")
        values: dict[str, Any] = {
            "method": method.slug, "task": task_name, "name": job_id, "config": complete, "cpus": 1, "gpus": 0,
            "datasets": {role: self._pin(self._role(role, classes)) for role in roles},
            "base_model": None if base is None else pin_model(base), "publish_as": job_id, "max_retries": 2,
            "keep_checkpoints": 3, "total_steps": complete["steps"],
        }  # fmt: skip
        if task_class.needs.style_image:
            paths = self.version("paintings", 1).paths
            values["style_image"] = {"path": min(paths), "sha256": paths[min(paths)]}
        with self.db.write() as tx:
            jobs.submit(tx, jobs.NewJob(job_id, TENANT, **(values | changes)))
        return job_id

    def _role(self, role: str, classes: Mapping[str, Sequence[str]]) -> str:
        """The dataset of a role; a labelled one is made, with ten pictures of each class."""
        if role not in classes:
            return {"content": "photos", "style": "paintings"}[role]
        pictures = {
            f"{name}/{n}.jpg": jpeg(72, 88, seed=1000 + 10 * place + n)
            for place, name in enumerate(classes[role])
            for n in range(10)
        }
        return self.dataset(f"labelled-{role}", pictures, kind="labelled").name

    def _pin(self, name: str) -> dict[str, Any]:
        version = self.version(name, 1)
        return {"name": name, "version": 1, "hash": version.hash, "prefix": version.prefix}

    def claim(self) -> Ticket:
        """What a dispatcher does."""
        with self.db.write() as tx:
            claimed = claims.claim_next(tx, owner="dispatcher", lease_s=15.0)
        assert claimed is not None
        return claimed.ticket

    def run(self, ticket: Ticket) -> str:
        return run_attempt(ticket, self.platform, self.encoders, Host(f"run-{ticket.job_id}", "node", 1))

    def finished(self, task: str, **options: Any) -> Job:
        """A job that ran undisturbed from submit to its end."""
        job_id = self.submit(task, **options)
        assert self.run(self.claim()) == "succeeded"
        return self.job(job_id)

    def change(self, job_id: str, **values: Any) -> None:
        """A row that no submit would make."""
        with self.db.write() as tx:
            tx.execute(update(Job).where(Job.id == job_id).values(**values))

    def lose(self, ticket: Ticket) -> None:
        """What a dispatcher does when an actor is gone."""
        with self.db.write() as tx:
            assert queue.lost(tx, ticket, "its process is gone") is not None

    def move(self, job_id: str, move: Move) -> None:
        """What a user asks for."""
        with self.db.write() as tx:
            assert queue.move(tx, job_id, move) is not None

    # --- what is there afterwards ---

    def job(self, job_id: str) -> Job:
        with self.db.read() as tx:
            return tx.get_one(Job, job_id)

    def attempts(self, job_id: str) -> Sequence[Attempt]:
        with self.db.read() as tx:
            return tx.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.attempt)).all()

    def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        with self.db.read() as tx:
            return tx.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)).all()

    def events(self, job_id: str, *kinds: str) -> Sequence[Event]:
        with self.db.read() as tx:
            query = select(Event).where(Event.job_id == job_id, Event.event.in_(kinds)).order_by(Event.id)
            return tx.scalars(query).all()

    def log_text(self, job_id: str) -> str:
        return "\n".join(line["text"] for event in self.events(job_id, "log") for line in event.body["lines"])

    def metric(self, job_id: str, name: str) -> dict[int, float]:
        with self.db.read() as tx:
            query = select(Metric.step, Metric.value).where(Metric.job_id == job_id, Metric.name == name)
            return {row.step: row.value for row in tx.execute(query)}

    def model(self, job_id: str) -> ModelVersion:
        with self.db.read() as tx:
            return tx.scalars(select(ModelVersion).where(ModelVersion.job_id == job_id)).one()

    def model_bytes(self, job_id: str) -> bytes:
        return self.objects.get(f"{self.model(job_id).prefix}/model.safetensors")

    def model_tensors(self, job_id: str) -> dict[str, Tensor]:
        return safetensors.torch.load(self.model_bytes(job_id))


def photos(count: int, *, first_seed: int = 0, side: int = 40) -> dict[str, bytes]:
    """Pictures by path."""
    return {f"{n:03}.jpg": jpeg(side + 8, side, seed=first_seed + n) for n in range(count)}


def pin_model(model: ModelVersion) -> dict[str, Any]:
    return {
        "name": model.name, "version": model.version, "prefix": model.prefix, "method": model.method,
        "task": model.task, "config": model.config, "files": model.files,
    }  # fmt: skip
