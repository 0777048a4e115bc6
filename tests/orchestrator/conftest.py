"""The API over real servers, an administrator's client, a second tenant, and things that jobs need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.api.app import create_app
from orchestrator.ids import new_id
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from orchestrator.store import claims, jobs, keys
from orchestrator.store.database import Database
from orchestrator.store.tables import DatasetVersion, Job, ModelVersion, Tenant

ADMIN_KEY = "sf_test-administrator"


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the style library's description is kept: it is asked once for all tests."""
    return tmp_path_factory.mktemp("described")


@pytest.fixture
def app(settings: Settings, described: Path) -> FastAPI:
    return create_app(settings.model_copy(update={"cache_dir": described}))


@pytest.fixture
def anonymous(app: FastAPI) -> Iterator[TestClient]:
    """A client without a key; errors of the server arrive as answers."""
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


class Api:
    """A tenant's view of the API, and its hands in the database."""

    def __init__(self, client: TestClient, key: str, db: Database, objects: Objects) -> None:
        self.client, self.key, self.db, self.objects = client, key, db, objects
        with db.read() as tx:
            caller = keys.caller_of(tx, keys.digest_of(key))
        assert caller is not None
        self.tenant = caller.tenant

    def request(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | arguments.pop("headers", {})
        return self.client.request(method, path, headers=headers, **arguments)

    def get(self, path: str, **arguments: Any) -> httpx2.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, json: Any = None, **arguments: Any) -> httpx2.Response:
        return self.request("POST", path, json=json, **arguments)

    def job(self, **changes: Any) -> dict[str, Any]:
        """Submit a small MetaStyle training."""
        answer = self.post("/v1/jobs", small_job(**changes))
        assert answer.status_code == 201, answer.text
        submitted: dict[str, Any] = answer.json()
        return submitted

    def add_dataset(self, name: str, *, paths: tuple[str, ...] = ("a.jpg",), version: int = 1, **changes: Any) -> None:
        """A version as an ingest leaves it."""
        values: dict[str, Any] = {
            "kind": "images", "status": "ready", "files": [], "list_digest": "", "hash": f"hash-{name}-{version}",
            "count": len(paths), "bytes": 1, "classes": [], "refused": [], "prefix": f"datasets/{name}/{version}",
            "paths": {path: digest(path) for path in paths}, "created_at": 0.0,
        }  # fmt: skip
        with self.db.write() as tx:
            tx.add(DatasetVersion(tenant_id=self.tenant, name=name, version=version, **(values | changes)))

    def add_model(self, name: str, *, versions: int = 1, **changes: Any) -> None:
        """Versions of a model as jobs publish them, each by a job of its own."""
        values: dict[str, Any] = {
            "method": "metastyle", "task": "train", "config": {"encoder": "random", "width": 4, "res_blocks": 1},
            "created_at": 0.0, "files": [{"path": "model.safetensors", "size": 7, "sha256": digest("model")}],
        }  # fmt: skip
        for version in range(1, versions + 1):
            job_id, prefix = new_id("job"), f"jobs/{name}/{version}/model"
            self.objects.put(f"{prefix}/model.safetensors", b"tensors")
            lineage = {"job": job_id, "datasets": {"content": "photos@1"}, "base_model": None, "code": "c0de"}
            with self.db.write() as tx:
                jobs.submit(tx, finished_job(job_id, self.tenant))
                tx.get_one(Job, job_id).status = "succeeded"
                fixed = {"tenant_id": self.tenant, "name": name, "version": version, "job_id": job_id}
                tx.add(ModelVersion(prefix=prefix, lineage=lineage, **(fixed | values | changes)))

    def room(self, *, cpus: int, gpus: int = 0) -> None:
        with self.db.write() as tx:
            claims.set_room(tx, cpus=cpus, gpus=gpus)


@pytest.fixture
def api(anonymous: TestClient, settings: Settings) -> Iterator[Api]:
    """The administrator of the settings, with the datasets that `small_job` names."""
    db = Database(settings.database_url)
    api = Api(anonymous, ADMIN_KEY, db, Objects(settings))
    api.add_dataset("photos")
    api.add_dataset("paintings", paths=("starry.jpg", "wave.png"))
    yield api
    db.dispose()


@pytest.fixture
def stranger(api: Api) -> Api:
    """An ordinary key of another tenant."""
    answer = api.post("/v1/keys", {"name": "stranger", "tenant": "other"})
    assert answer.status_code == 201, answer.text
    return Api(api.client, answer.json()["key"], api.db, api.objects)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated, empty database with the tenant `tenant_t`."""
    database = Database(database_url)
    with database.write() as tx:
        tx.add(Tenant(id="tenant_t", name="t", created_at=0.0))
    yield database
    database.dispose()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def small_job(**changes: Any) -> dict[str, Any]:
    """A job that the catalogue takes without weights of VGG."""
    return {
        "method": "metastyle",
        "task": "train",
        "config": {"steps": 20, "encoder": "random", "width": 4},
        "datasets": {"content": "photos", "style": "paintings"},
    } | changes


def finished_job(job_id: str, tenant: str) -> jobs.NewJob:
    return jobs.NewJob(
        job_id, tenant, method="metastyle", task="train", name="finished", config={}, cpus=1, gpus=0, max_retries=0,
        total_steps=1, publish_as="finished",
    )  # fmt: skip


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:stylefoundry:problem:")
    assert document["title"]
    assert document["detail"]
    return document


def pointers(answer: httpx2.Response) -> list[str]:
    """Which fields a 422 names."""
    return [error["pointer"] for error in problem(answer, 422)["errors"]]
