"""Storage quotas: what counts, where more is refused, and that deletion makes room. On both databases."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from sqlalchemy import update

from orchestrator.dispatch.sweep import Sweeper
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from orchestrator.store import claims, queue
from orchestrator.store.queue import Batch
from orchestrator.store.tables import Blob, ModelVersion
from tests.orchestrator.conftest import Api, digest, problem, small_job


def limit(api: Api, most: int | None, tenant: str = "default") -> None:
    answer = api.request("PATCH", f"/v1/tenants/{tenant}", json={"max_bytes": most})
    assert answer.status_code == 200, answer.text
    assert answer.json()["max_bytes"] == most


def used(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("/v1/usage").json()
    return found


def add_pictures(api: Api, **sizes: int) -> None:
    with api.db.write() as tx:
        for name, size in sizes.items():
            tx.add(Blob(tenant_id=api.tenant, sha256=digest(name), size=size, created_at=0.0))


def offered(**sizes: int) -> dict[str, Any]:
    return {"files": [{"path": name, "size": size, "sha256": digest(name)} for name, size in sizes.items()]}


def running(api: Api, job_id: str) -> queue.Ticket:
    api.room(cpus=4)
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=60)
        assert claimed is not None
        assert claimed.ticket.job_id == job_id
        queue.begin(tx, claimed.ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=20, lease_s=60)
    return claimed.ticket


def keep_checkpoint(api: Api, ticket: queue.Ticket, size: int) -> None:
    checkpoint = {"step": 1, "prefix": "p", "manifest_sha256": "m", "files": [], "bytes": size}
    with api.db.write() as tx:
        assert queue.record(tx, ticket, Batch(step=1, checkpoints=[checkpoint]), lease_s=60) is not None


def test_everything_that_rows_name_counts(api: Api, stranger: Api):
    assert used(api)["max_bytes"] is None
    before = used(api)["bytes"]
    assert before == {"pictures": 0, "datasets": 2, "checkpoints": 0, "models": 0, "total": 2}, "two fixtures"
    add_pictures(api, a=100, b=20)
    add_pictures(stranger, a=1000)
    api.add_model("starry")
    with api.db.write() as tx:
        tx.execute(update(ModelVersion).values(bytes=7))
    keep_checkpoint(api, running(api, api.job()["id"]), 50)
    expected = {"pictures": 120, "datasets": 2, "checkpoints": 50, "models": 7, "total": 179}
    assert used(api) == {"tenant": "default", "bytes": expected, "max_bytes": None}
    assert used(stranger)["bytes"]["total"] == 1000


def test_beyond_the_limit_nothing_more_is_taken_and_what_is_there_is_not_asked_for(api: Api):
    add_pictures(api, a=100)
    limit(api, 200)
    assert api.post("/v1/datasets/x/uploads", offered(b=98)).status_code == 200
    told = problem(api.post("/v1/datasets/x/uploads", offered(a=100, b=99)), 409)
    assert "102 of 200 bytes, 99 more" in told["detail"]
    assert told["type"].endswith("limit-reached")
    assert api.post("/v1/datasets/x/uploads", offered(a=100)).json()["files"][0]["exists"] is True
    twice = {"files": [*offered(b=60)["files"], {"path": "again", "size": 60, "sha256": digest("b")}]}
    assert api.post("/v1/datasets/x/uploads", twice).status_code == 200, "the same picture twice is stored once"


def test_a_full_tenant_commits_and_submits_nothing_until_it_has_deleted_something(api: Api):
    files = [{"path": "a", "sha256": digest("a")}]
    api.add_dataset("old", bytes=100)
    limit(api, 102)
    problem(api.post("/v1/datasets/new/versions", {"kind": "images", "files": files}), 409)
    problem(api.post("/v1/jobs", small_job()), 409)
    assert api.get("/v1/jobs").json()["data"] == [], "what was refused left nothing"
    assert api.request("DELETE", "/v1/datasets/old/versions/1").status_code == 204
    assert api.post("/v1/datasets/new/versions", {"kind": "images", "files": files}).status_code == 202
    assert api.post("/v1/jobs", small_job()).status_code == 201


def test_a_job_that_fills_the_store_while_it_runs_goes_on(api: Api):
    job_id = api.job()["id"]
    ticket = running(api, job_id)
    limit(api, 10)
    keep_checkpoint(api, ticket, 50)
    assert api.get(f"/v1/jobs/{job_id}").json()["status"] == "running"
    with api.db.write() as tx:
        assert queue.finish(tx, ticket, None) is not None
    problem(api.post(f"/v1/jobs/{job_id}/retry"), 409)
    limit(api, None)
    assert api.post(f"/v1/jobs/{job_id}/retry").status_code == 201


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_janitor_ends_uploads_that_were_begun_and_left(api: Api, settings: Settings):
    store = boto3.client(
        "s3",
        endpoint_url=settings.s3_url,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        region_name=settings.s3_region,
    )
    begun = store.create_multipart_upload(Bucket=settings.s3_bucket, Key="uploads/t/x")
    part = {"Bucket": settings.s3_bucket, "Key": "uploads/t/x", "UploadId": begun["UploadId"], "PartNumber": 1}
    store.upload_part(**part, Body=b"x")
    sweeper = Sweeper(api.db, Objects(settings))
    sweeper.sweep()
    assert len(store.list_multipart_uploads(Bucket=settings.s3_bucket)["Uploads"]) == 1, "it may be under way"
    assert sweeper.sweep(grace_s=-1.0) == 1
    with pytest.raises(store.exceptions.ClientError, match="NoSuchUpload"):
        store.upload_part(**part, Body=b"x")
    store.close()
