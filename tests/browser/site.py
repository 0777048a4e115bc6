"""A logged-in page, and the hands of a worker behind it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from orchestrator.bus import Bus
from orchestrator.ids import new_id
from orchestrator.objects import Objects, model_prefix, sample_key
from orchestrator.settings import Settings
from orchestrator.store import claims, jobs, keys, queue
from orchestrator.store.database import Database
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import DatasetVersion, Job, ModelVersion
from tests.images import jpeg
from tests.serving import ADMIN_KEY

PICTURES = ("style-1", "content-1", "result-1-1")


class Site:
    """A browser's page that is logged in, and the hands of a worker behind it."""

    def __init__(self, page: Page, url: str, settings: Settings) -> None:
        self.page, self.url = page, url
        self.db = Database(settings.database_url)
        self.objects = Objects(settings)
        self.bus = Bus(settings.redis_url.get_secret_value())
        with self.db.write() as tx:
            claims.set_room(tx, cpus=4, gpus=0)
        with self.db.read() as tx:
            caller = keys.caller_of(tx, keys.digest_of(ADMIN_KEY))
        assert caller is not None
        self.tenant = caller.tenant

    def log_in(self) -> None:
        self.page.goto(f"{self.url}/login")
        self.page.get_by_label("API key").fill(ADMIN_KEY)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page).to_have_url(f"{self.url}/")

    def goto(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def submit(self, name: str, **changes: Any) -> str:
        """A queued job of 100 steps."""
        pinned = {"name": "photos", "version": 2, "hash": "0", "prefix": "x"}
        values: dict[str, Any] = {
            "method": "metastyle", "task": "train", "name": name, "config": {"steps": 100, "lr": 0.001},
            "datasets": {"content": pinned}, "cpus": 1, "gpus": 0, "max_retries": 2, "total_steps": 100,
            "publish_as": name,
        }  # fmt: skip
        with self.db.write() as tx:
            return jobs.submit(tx, jobs.NewJob(new_id("job"), self.tenant, **(values | changes))).id

    def begin(self) -> Ticket:
        with self.db.write() as tx:
            claimed = claims.claim_next(tx, owner="test", lease_s=60)
        assert claimed is not None
        ticket = claimed.ticket
        with self.db.write() as tx:
            assert queue.begin(tx, ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=100, lease_s=60)
        return ticket

    def record(self, ticket: Ticket, first: int, last: int, *, pictures: bool = False) -> None:
        """Steps `first` to `last` of a training, with a checkpoint and a preview grid at the last one."""
        points = {
            name: [(step, scale / step) for step in range(first, last + 1)]
            for name, scale in (("content_loss", 1.0), ("style_loss", 50.0))
        }
        samples, checkpoints = [], []
        if pictures:
            samples = [self._picture(ticket, last, name) for name in PICTURES]
            checkpoints = [{"step": last, "prefix": "x", "manifest_sha256": "0", "files": [], "bytes": 1}]
        batch = Batch(
            step=last,
            images_per_second=12.5,
            points=points,
            log=[{"at": 0.0, "level": "info", "text": f"steps {first} to {last} <b>done</b>"}],
            samples=samples,
            checkpoints=checkpoints,
        )
        with self.db.write() as tx:
            assert queue.record(tx, ticket, batch, lease_s=60) is not None
        self.bus.tell(ticket.job_id)

    def _picture(self, ticket: Ticket, step: int, name: str) -> dict[str, Any]:
        key = sample_key(self.tenant, ticket.job_id, ticket.attempt, step, name)
        self.objects.put(key, jpeg(64, 64, seed=step), "image/jpeg")
        return {"step": step, "name": name, "width": 64, "height": 64, "key": key}

    def publish(self, ticket: Ticket, name: str) -> None:
        prefix = model_prefix(self.tenant, ticket.job_id, ticket.attempt)
        files = {
            "model.safetensors": b"tensors",
            "samples/result-1-1.jpg": jpeg(64, 64),
            "samples/content-1.jpg": jpeg(64, 64),
        }
        for path, content in files.items():
            self.objects.put(f"{prefix}/{path}", content)
        model = ModelVersion(
            tenant_id=self.tenant, name=name, version=0, job_id=ticket.job_id, method="metastyle", task="train",
            prefix=prefix, config={}, created_at=0.0,
            files=[{"path": path, "size": len(content), "sha256": "0" * 64} for path, content in files.items()],
            lineage={"job": ticket.job_id, "datasets": {"content": "photos@2"}, "base_model": None, "code": "0"},
        )  # fmt: skip
        with self.db.write() as tx:
            assert queue.finish(tx, ticket, model) is not None
        self.bus.tell(ticket.job_id)

    def add_model(self, name: str, **changes: Any) -> None:
        """A version without files that could be drawn with."""
        self.submit(name)
        self.publish(self.begin(), name)
        with self.db.write() as tx:
            version = tx.get_one(ModelVersion, (self.tenant, name, 1))
            for field, value in changes.items():
                setattr(version, field, value)

    def add_dataset(self, name: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "version": 1, "kind": "images", "status": "ready", "files": [], "list_digest": "", "count": 12,
            "bytes": 1024, "classes": [], "refused": [{"path": "bad.jpg", "reason": "is cut off"}],
            "paths": {}, "created_at": 0.0,
        }  # fmt: skip
        with self.db.write() as tx:
            tx.add(DatasetVersion(tenant_id=self.tenant, name=name, **(values | changes)))

    def job(self, job_id: str) -> Job:
        with self.db.read() as tx:
            return tx.get_one(Job, job_id)
