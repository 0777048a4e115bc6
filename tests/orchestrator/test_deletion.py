"""DELETE of jobs, models and datasets, on both databases: what goes, what stays, and what says why."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update

from orchestrator.dispatch.sweep import Sweeper
from orchestrator.objects import blob_key, checkpoint_prefix
from orchestrator.states import Status
from orchestrator.store import claims, queue
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import (
    Attempt,
    Base,
    Blob,
    Checkpoint,
    DatasetVersion,
    Event,
    Job,
    JobTag,
    Metric,
    ModelVersion,
    Sample,
)
from tests.orchestrator.conftest import Api, digest, problem, small_job


def delete(api: Api, path: str) -> Any:
    return api.request("DELETE", path)


def trained(api: Api, **changes: Any) -> str:
    """A job that has left something of everything, and was cancelled."""
    api.room(cpus=4)
    job_id: str = api.job(tags={"k": "v"}, **changes)["id"]
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=60)
        assert claimed is not None
        ticket = claimed.ticket
        queue.begin(tx, ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=20, lease_s=60)
        queue.record(tx, ticket, said(api, ticket), lease_s=60)
    assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    with api.db.write() as tx:
        queue.stop(tx, ticket)
    return job_id


def said(api: Api, ticket: Ticket) -> Batch:
    prefix = checkpoint_prefix(api.tenant, ticket.job_id, 1, 5)
    api.objects.put(f"{prefix}/manifest.json", b"{}")
    checkpoint = {"step": 5, "prefix": prefix, "manifest_sha256": "m", "files": [], "bytes": 2}
    sample = {"step": 5, "name": "grid", "width": 8, "height": 8, "key": f"{prefix}.jpg"}
    log = {"at": 1.0, "level": "info", "text": "t"}
    return Batch(step=5, points={"loss": [(5, 1.0)]}, log=[log], checkpoints=[checkpoint], samples=[sample])


def count(api: Api, table: type[Base], *conditions: Any) -> int:
    with api.db.read() as tx:
        return tx.scalar(select(func.count()).select_from(table).where(*conditions)) or 0


def end(api: Api, job_id: str, status: Status = Status.CANCELLED) -> None:
    with api.db.write() as tx:
        tx.execute(update(Job).where(Job.id == job_id).values(status=status))


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_that_has_ended_goes_with_all_that_it_left(api: Api):
    job_id = trained(api)
    kept = trained(api)
    of_a_job = (JobTag, Attempt, Event, Metric, Checkpoint, Sample)
    assert all(count(api, table, table.job_id == job_id) for table in of_a_job)
    answer = delete(api, f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not any(count(api, table, table.job_id == job_id) for table in of_a_job)
    assert all(count(api, table, table.job_id == kept) for table in of_a_job)
    problem(api.get(f"/v1/jobs/{job_id}"), 404)
    problem(delete(api, f"/v1/jobs/{job_id}"), 404)
    assert [job["id"] for job in api.get("/v1/jobs").json()["data"]] == [kept]


def test_its_objects_follow_by_the_sweep_and_no_others(api: Api):
    job_id, kept = trained(api), trained(api)
    delete(api, f"/v1/jobs/{job_id}")
    assert Sweeper(api.db, api.objects).sweep(grace_s=0.0) == 1
    keys = list(api.objects.keys("jobs/"))
    assert [key.split("/")[2] for key in keys] == [kept]


def test_a_job_that_has_not_ended_stays(api: Api):
    job_id = api.job()["id"]
    assert "cancel it first" in problem(delete(api, f"/v1/jobs/{job_id}"), 409)["detail"]
    api.post(f"/v1/jobs/{job_id}/cancel")
    assert delete(api, f"/v1/jobs/{job_id}").status_code == 204


def test_a_job_whose_model_is_kept_stays(api: Api):
    api.add_model("starry")
    with api.db.read() as tx:
        job_id = tx.scalars(select(ModelVersion.job_id)).one()
    assert "starry@1" in problem(delete(api, f"/v1/jobs/{job_id}"), 409)["detail"]
    assert delete(api, "/v1/models/starry/versions/1").status_code == 204
    assert delete(api, f"/v1/jobs/{job_id}").status_code == 204


def test_a_job_that_a_retry_goes_on_from_stays_until_that_has_ended(api: Api):
    first = trained(api)
    retry = api.post(f"/v1/jobs/{first}/retry").json()["id"]
    assert retry in problem(delete(api, f"/v1/jobs/{first}"), 409)["detail"]
    end(api, retry)
    assert delete(api, f"/v1/jobs/{first}").status_code == 204
    again = api.post(f"/v1/jobs/{retry}/retry", {"from": "checkpoint"})
    assert "no checkpoint" in problem(again, 422)["detail"], "it went with the first job"
    assert api.post(f"/v1/jobs/{retry}/retry").json()["progress"]["step"] == 0


def test_a_job_that_others_wait_for_stays(api: Api):
    first = api.job()["id"]
    second = api.job(depends_on=[first])["id"]
    end(api, first)
    assert f"{second} depends on it" in problem(delete(api, f"/v1/jobs/{first}"), 409)["detail"]


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_version_of_a_model_goes_and_its_number_is_not_given_out_again(api: Api):
    api.add_model("starry", versions=2)
    assert delete(api, "/v1/models/starry/versions/2").status_code == 204
    problem(api.get("/v1/models/starry/versions/2"), 404)
    assert api.get("/v1/models/starry").json()["version"] == 1
    api.room(cpus=4)
    api.job(publish_as="starry")
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=60)
        assert claimed is not None
        ticket = claimed.ticket
        queue.begin(tx, ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=20, lease_s=60)
        published = ModelVersion(
            tenant_id=api.tenant, name="starry", version=0, job_id=ticket.job_id, method="metastyle", task="train",
            prefix="p", files=[{"path": "a", "size": 5, "sha256": "s"}, {"path": "b", "size": 6, "sha256": "s"}],
            config={}, lineage={"job": ticket.job_id, "datasets": {}, "base_model": None, "code": None}, created_at=0.0,
        )  # fmt: skip
        queue.finish(tx, ticket, published)
    assert api.get("/v1/models/starry").json()["version"] == 3
    with api.db.read() as tx:
        assert tx.scalars(select(ModelVersion.bytes).where(ModelVersion.version == 3)).one() == 11


def test_a_version_that_an_alias_or_an_unfinished_job_needs_stays(api: Api):
    api.add_model("starry")
    api.request("PUT", "/v1/models/starry/aliases/best", json={"version": 1})
    path = "/v1/models/starry/versions/1"
    assert "alias best" in problem(delete(api, path), 409)["detail"]
    assert delete(api, "/v1/models/starry/aliases/best").status_code == 204
    problem(delete(api, "/v1/models/starry/aliases/best"), 404)
    based = small_job(task="adapt", config={"steps": 5}, base_model="starry", style_image="starry.jpg")
    answer = api.post("/v1/jobs", based)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    assert job_id in problem(delete(api, path), 409)["detail"]
    api.post(f"/v1/jobs/{job_id}/cancel")
    assert delete(api, path).status_code == 204
    assert "starry@1" in problem(api.post(f"/v1/jobs/{job_id}/retry"), 409)["detail"]


def test_what_is_no_version_of_ones_own_is_not_deleted(api: Api):
    builtin = next(model for model in api.get("/v1/models").json()["data"] if model["builtin"])["name"]
    problem(delete(api, f"/v1/models/{builtin}/versions/1"), 409)
    problem(delete(api, "/v1/models/nothing/versions/1"), 404)
    problem(delete(api, "/v1/models/nothing/versions/latest"), 422)


# --- datasets ---------------------------------------------------------------------------------------------------------


def files(*paths: str) -> list[dict[str, str]]:
    return [{"path": path, "sha256": digest(path)} for path in paths]


def add_pictures(api: Api, *paths: str) -> None:
    with api.db.write() as tx:
        for path in paths:
            tx.add(Blob(tenant_id=api.tenant, sha256=digest(path), size=3, created_at=0.0))
    for path in paths:
        api.objects.put(blob_key(api.tenant, digest(path)), b"jpg")


def test_a_version_of_a_dataset_goes_with_the_pictures_that_no_other_one_lists(api: Api):
    add_pictures(api, "a", "b", "c")
    api.add_dataset("mine", files=files("a", "b"), paths=("a", "b"))
    api.add_dataset("other", files=files("b", "c"), paths=("b", "c"))
    assert delete(api, "/v1/datasets/mine/versions/1").status_code == 204
    problem(api.get("/v1/datasets/mine"), 404)
    problem(delete(api, "/v1/datasets/mine/versions/1"), 404)
    with api.db.read() as tx:
        assert set(tx.scalars(select(Blob.sha256))) == {digest("b"), digest("c")}
    assert Sweeper(api.db, api.objects).sweep(grace_s=0.0) == 1
    assert sorted(api.objects.keys("blobs/")) == sorted(blob_key(api.tenant, digest(p)) for p in ("b", "c"))


def test_the_number_of_a_deleted_version_is_not_given_out_again(api: Api):
    body = {"kind": "images", "files": files("a")}
    assert api.post("/v1/datasets/mine/versions", body).json()["version"] == 1
    assert "ingest" in problem(delete(api, "/v1/datasets/mine/versions/1"), 409)["detail"]
    with api.db.write() as tx:
        tx.execute(update(DatasetVersion).where(DatasetVersion.name == "mine").values(status="ready"))
        tx.execute(update(Job).where(Job.kind == "ingest").values(status=Status.SUCCEEDED))
    assert delete(api, "/v1/datasets/mine/versions/1").status_code == 204
    assert count(api, Job, Job.kind == "ingest") == 0
    assert api.post("/v1/datasets/mine/versions", body).json()["version"] == 2


def test_a_version_that_an_unfinished_job_trains_with_stays(api: Api):
    for role, name in (("content", "photos"), ("style", "paintings")):
        job_id = api.job()["id"]
        path = f"/v1/datasets/{name}/versions/1"
        assert job_id in problem(delete(api, path), 409)["detail"], role
        api.post(f"/v1/jobs/{job_id}/cancel")
        assert delete(api, path).status_code == 204
        assert f"{name}@1" in problem(api.post(f"/v1/jobs/{job_id}/retry"), 409)["detail"]
        api.add_dataset(name, paths=("a.jpg",), version=2 if role == "style" else 1)


def test_only_the_version_itself_is_needed(api: Api):
    """`photos@1` and `photos@10` are different, also in JSON."""
    api.add_dataset("photos", version=10)
    job_id = api.job(datasets={"content": "photos@10", "style": "paintings"})["id"]
    assert delete(api, "/v1/datasets/photos/versions/1").status_code == 204
    assert job_id in problem(delete(api, "/v1/datasets/photos/versions/10"), 409)["detail"]
