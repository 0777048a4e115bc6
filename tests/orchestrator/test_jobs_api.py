"""Jobs over REST, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.states import ErrorType, Move
from orchestrator.store import claims, queue
from orchestrator.store.queue import Batch, Ticket
from tests.orchestrator.conftest import Api, pointers, problem, small_job


def test_a_submitted_job_comes_back_pinned_and_complete(api: Api):
    answer = api.post("/v1/jobs", small_job(name="starry", seed=7, tags={"show": "spring"}))

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["datasets"] == {"content": "photos@1", "style": "paintings@1"}
    assert (job["name"], job["publish_as"], job["seed"], job["tags"]) == ("starry", "starry", 7, {"show": "spring"})
    assert job["config"]["steps"] == 20
    schema = api.get("/v1/methods/metastyle").json()["tasks"]["train"]["config"]["properties"]
    assert job["config"].keys() == schema.keys()
    assert job["config"]["res_blocks"] == schema["res_blocks"]["default"]
    assert job["config"]["style_weight"] == schema["style_weight"]["x-small"], "the encoder is not plain VGG"
    assert (job["status"], job["phase"], job["attempt"]) == ("queued", "pending", 0)
    assert job["progress"] == {"step": 0, "total_steps": 20, "images_per_second": None, "eta_s": None}
    assert job["resources"] == {"workers": 1, "min_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}
    assert (job["priority"], job["max_retries"], job["timeout_s"], job["keep_checkpoints"]) == (0, 2, None, 3)
    assert (job["depends_on"], job["webhook"], job["parent"], job["error"], job["model"]) == (
        [],
        None,
        None,
        None,
        None,
    )
    assert job["created_at"].endswith("Z")
    assert api.get(f"/v1/jobs/{job['id']}").json() == job


def test_the_name_follows_method_and_task_and_the_model_follows_the_name(api: Api):
    assert api.job()["name"] == "metastyle-train"
    job = api.job(name="a", publish_as="b")
    assert (job["name"], job["publish_as"]) == ("a", "b")


def test_latest_means_the_newest_ready_version_and_stays_what_it_was(api: Api):
    api.add_dataset("photos", version=2)
    api.add_dataset("photos", version=3, status="ingesting")
    job = api.job(datasets={"content": "photos@latest", "style": "paintings@1"})
    assert job["datasets"]["content"] == "photos@2"
    api.add_dataset("photos", version=4)
    assert api.get(f"/v1/jobs/{job['id']}").json()["datasets"]["content"] == "photos@2"


def test_a_task_that_trains_nothing_is_refused_with_what_to_do_instead(api: Api):
    answer = api.post("/v1/jobs", {"method": "gatys", "task": "optimise"})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/task"]
    assert "stylise" in answer.json()["errors"][0]["detail"]


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"method": "nonsense"}, "/method"),
    ({"task": "nonsense"}, "/task"),
    ({"method": "gatys", "task": "optimise", "datasets": {}, "config": {}}, "/task"),
    ({"config": {"steps": "many", "encoder": "random"}}, "/config/steps"),
    ({"config": {"steps": 0, "encoder": "random"}}, "/config/steps"),
    ({"config": {"steps": 2**70, "encoder": "random"}}, "/config/steps"),
    ({"config": {"nonsense": 1, "encoder": "random"}}, "/config/nonsense"),
    ({"config": {"encoder": "vgg16"}}, "/config/encoder"),
    ({"datasets": {"content": "photos"}}, "/datasets/style"),
    ({"datasets": {"content": "photos", "style": "paintings", "extra": "photos"}}, "/datasets/extra"),
    ({"datasets": {"content": "nowhere", "style": "paintings"}}, "/datasets/content"),
    ({"datasets": {"content": "photos@9", "style": "paintings"}}, "/datasets/content"),
    ({"datasets": {"content": "photos@best", "style": "paintings"}}, "/datasets/content"),
    ({"datasets": {"content": "../photos", "style": "paintings"}}, "/datasets/content"),
    ({"style_image": "starry.jpg"}, "/style_image"),
    ({"base_model": "meta"}, "/base_model"),
    ({"name": "not a name"}, "/name"),
    ({"name": "a" * 64}, "/name"),
    ({"publish_as": "-x"}, "/publish_as"),
    ({"nonsense": 1}, "/nonsense"),
    ({"seed": 2**63}, "/seed"),
    ({"seed": 1.5}, "/seed"),
    ({"seed": "1"}, "/seed"),
    ({"priority": True}, "/priority"),
    ({"timeout_s": 0}, "/timeout_s"),
    ({"keep_checkpoints": 0}, "/keep_checkpoints"),
    ({"tags": {"a b": "c"}}, "/tags/a b/[key]"),
    ({"tags": {"a": "\0"}}, "/tags/a"),
    ({"style_image": "a/../b.jpg"}, "/style_image"),
    ({"depends_on": ["job_1"]}, "/depends_on/0"),
    ({"webhook": "https://example.org"}, "/webhook"),
    ({"resources": {"workers": 5}}, "/resources/workers"),
    ({"resources": {"gpus": 2}}, "/resources/gpus"),
]


def test_a_field_that_cannot_be_used_is_named(api: Api):
    told = [pointers(api.post("/v1/jobs", small_job(**changes))) for changes, _ in UNUSABLE]
    assert told == [[pointer] for _, pointer in UNUSABLE]
    assert api.get("/v1/jobs").json()["data"] == []


def test_a_dataset_that_is_not_ready_is_refused_with_its_state(api: Api):
    api.add_dataset("new", status="ingesting")
    api.add_dataset("bad", status="rejected", error="a.jpg was never uploaded")
    for name, words in (("new", "ingesting"), ("bad@1", "a.jpg was never uploaded")):
        answer = api.post("/v1/jobs", small_job(datasets={"content": name, "style": "paintings"}))
        assert pointers(answer) == ["/datasets/content"]
        assert words in answer.json()["detail"]


def test_a_classifier_wants_two_classes_of_two_pictures_and_says_which_has_fewer(api: Api):
    api.add_dataset("lonely", kind="labelled", classes=["cats", "dogs"], class_counts={"cats": 5, "dogs": 1})
    api.add_dataset("single", kind="labelled", classes=["cats"], class_counts={"cats": 5})
    api.add_dataset("pets", kind="labelled", classes=["cats", "dogs"], class_counts={"cats": 5, "dogs": 2})
    job = {"method": "srm", "task": "classify", "config": {}}
    refused = {"lonely": "class 'dogs' has 1 picture", "single": "has the classes cats", "photos": "kind"}
    for name, words in refused.items():
        answer = api.post("/v1/jobs", job | {"datasets": {"objects": name}})
        assert pointers(answer) == ["/datasets/objects"]
        assert words in answer.json()["detail"]
    assert api.post("/v1/jobs", job | {"datasets": {"objects": "pets"}}).status_code == 201


def test_several_bad_settings_are_told_at_once(api: Api):
    answer = api.post("/v1/jobs", small_job(config={"steps": 0, "lr": -1, "encoder": "random"}))
    assert sorted(pointers(answer)) == ["/config/lr", "/config/steps"]


def test_an_encoder_without_weights_is_refused_with_what_to_do(api: Api):
    detail = problem(api.post("/v1/jobs", small_job(config={"encoder": "vgg19"})), 422)["detail"]
    assert "stylefoundry weights add vgg19" in detail
    assert "small" in detail


# --- adaptation -------------------------------------------------------------------------------------------------------


def adaptation(**changes: Any) -> dict[str, Any]:
    return {
        "method": "metastyle",
        "task": "adapt",
        "config": {"steps": 5},
        "datasets": {"content": "photos", "style": "paintings"},
        "style_image": "starry.jpg",
        "base_model": "meta",
    } | changes


def test_an_adaptation_takes_what_the_base_model_fixes(api: Api):
    api.add_model("meta", versions=2)
    answer = api.post("/v1/jobs", adaptation())
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["base_model"], job["style_image"]) == ("meta@2", "starry.jpg")
    assert (job["config"]["encoder"], job["config"]["width"], job["config"]["res_blocks"]) == ("random", 4, 1)
    assert pointers(api.post("/v1/jobs", adaptation(config={"width": 8}))) == ["/config/width"]


INCOMPLETE: list[tuple[dict[str, Any], str]] = [
    ({"style_image": None}, "/style_image"),
    ({"style_image": "missing.jpg"}, "/style_image"),
    ({"datasets": {"content": "photos"}}, "/datasets/style"),
    ({"base_model": "nowhere"}, "/base_model"),
    ({"base_model": "meta@9"}, "/base_model"),
    ({"base_model": "adapted"}, "/base_model"),
]


def test_an_adaptation_without_what_it_needs_is_refused(api: Api):
    api.add_model("meta")
    api.add_model("adapted", task="adapt")
    told = [pointers(api.post("/v1/jobs", adaptation(**changes))) for changes, _ in INCOMPLETE]
    assert told == [[pointer] for _, pointer in INCOMPLETE]


# --- resources --------------------------------------------------------------------------------------------------------


def test_a_job_gets_a_gpu_where_the_cluster_has_one(api: Api):
    assert api.job()["resources"]["gpus_per_worker"] == 0
    api.room(cpus=4, gpus=1)
    assert api.job()["resources"] == {"workers": 1, "min_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 1}
    assert api.job(resources={"cpus_per_worker": 2})["resources"]["gpus_per_worker"] == 0
    assert api.job(resources={"gpus_per_worker": 0})["resources"]["gpus_per_worker"] == 0


def test_more_than_the_whole_cluster_is_refused(api: Api):
    api.job(resources={"cpus_per_worker": 64})  # nobody has seen a cluster yet
    api.room(cpus=4)
    answer = api.post("/v1/jobs", small_job(resources={"cpus_per_worker": 5}))
    assert pointers(answer) == ["/resources/cpus_per_worker"]
    assert "4" in answer.json()["detail"]
    assert pointers(api.post("/v1/jobs", small_job(resources={"gpus_per_worker": 1}))) == ["/resources/gpus_per_worker"]


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_waiting_job_says_why_and_where_it_stands(api: Api):
    first, second = api.job(), api.job()
    urgent = api.job(priority=1)
    assert first["waiting"] == {"reason": "cluster", "position": 1, "estimated_start": None}
    api.room(cpus=4)
    assert [waiting(api, job) for job in (urgent, first, second)] == [("queue", 1), ("queue", 2), ("queue", 3)]
    api.post(f"/v1/jobs/{first['id']}/pause")
    assert [waiting(api, job) for job in (urgent, first, second)] == [("queue", 1), ("paused", None), ("queue", 2)]
    api.room(cpus=1)
    start(api)
    assert waiting(api, second) == ("room", 1)


def test_a_job_that_failed_a_moment_ago_waits_for_its_next_attempt(api: Api):
    api.room(cpus=4)
    job = api.job()
    ticket = start(api)
    for _ in range(2):  # the first one is tried again at once
        with api.db.write() as tx:
            queue.fail(tx, ticket, ErrorType.INTERNAL, "it broke")
        assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"
        if waiting(api, job)[0] == "backoff":
            break
        ticket = start(api)
    assert waiting(api, job) == ("backoff", 1)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_are_newest_first_and_pages_join_without_gap(api: Api):
    ids = [api.job()["id"] for _ in range(5)][::-1]
    seen, cursor = [], None
    while True:
        page = api.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        api.job()  # new ones do not shift the pages
    assert seen == ids


def test_lists_are_narrowed_by_status_method_tag_and_name(api: Api):
    a = api.job(name="Starry-night", tags={"show": "spring", "room": "1"})["id"]
    b = api.job(name="waves", tags={"show": "spring"})["id"]
    c = api.job(name="100percent")["id"]
    api.post(f"/v1/jobs/{b}/pause")
    api.post(f"/v1/jobs/{c}/cancel")

    def listed(**params: Any) -> set[str]:
        answer = api.get("/v1/jobs", params=params)
        assert answer.status_code == 200, answer.text
        return {job["id"] for job in answer.json()["data"]}

    assert listed(status="queued") == {a}
    assert listed(status="queued,paused") == listed(status=["queued", "paused"]) == {a, b}
    assert listed(method="metastyle") == {a, b, c}
    assert listed(method="other") == set()
    assert listed(tag="show:spring") == {a, b}
    assert listed(tag=["show:spring", "room:1"]) == {a}
    assert listed(q="NIGHT") == {a}
    assert listed(q="_") == listed(q="%") == set(), "no wildcards"
    assert pointers(api.get("/v1/jobs", params={"status": "nonsense"})) == ["/query/status"]
    assert pointers(api.get("/v1/jobs", params={"tag": "spring"})) == ["/query/tag"]
    assert pointers(api.get("/v1/jobs", params={"cursor": "nonsense"})) == ["/query/cursor"]
    assert pointers(api.get("/v1/jobs", params={"limit": 201})) == ["/query/limit"]


def test_an_ingest_is_no_job_of_the_user(api: Api):
    api.post("/v1/datasets/new/versions", {"kind": "images", "files": [{"path": "a.jpg", "sha256": "0" * 64}]})
    assert api.get("/v1/jobs").json()["data"] == []


# --- wishes -----------------------------------------------------------------------------------------------------------


def test_what_nobody_works_on_stops_at_once(api: Api):
    job = api.job()["id"]
    assert wish(api, job, "pause")["status"] == "paused"
    assert wish(api, job, "pause")["status"] == "paused", "it is so already"
    assert wish(api, job, "resume")["status"] == "queued"
    assert wish(api, job, "resume")["status"] == "queued"
    cancelled = wish(api, job, "cancel")
    assert (cancelled["status"], cancelled["phase"]) == ("cancelled", "terminal")
    assert cancelled["finished_at"] is not None
    assert wish(api, job, "cancel")["status"] == "cancelled"
    for verb in ("pause", "resume"):
        assert "cancelled" in problem(api.post(f"/v1/jobs/{job}/{verb}"), 409)["detail"]


def test_a_worker_is_asked_to_stop(api: Api):
    api.room(cpus=4)
    job = api.job()["id"]
    start(api)
    assert wish(api, job, "pause")["status"] == "pausing"
    problem(api.post(f"/v1/jobs/{job}/resume"), 409)
    assert wish(api, job, "cancel")["status"] == "cancelling"
    problem(api.post(f"/v1/jobs/{job}/pause"), 409)


# --- retry ------------------------------------------------------------------------------------------------------------


def trained(api: Api, step: int = 20) -> str:
    """A cancelled job with a checkpoint."""
    api.room(cpus=4)
    job: str = api.job(tags={"a": "b"})["id"]
    ticket = start(api)
    checkpoint = {"step": step, "prefix": "p", "manifest_sha256": "m", "files": [], "bytes": 1}
    with api.db.write() as tx:
        queue.record(tx, ticket, Batch(step=step, checkpoints=[checkpoint]), lease_s=60)
    with api.db.write() as tx:
        queue.move(tx, job, Move.CANCEL)
        queue.stop(tx, ticket)
    return job


def test_a_retry_goes_on_from_the_newest_checkpoint_with_more_steps(api: Api):
    parent = trained(api)
    answer = api.post(f"/v1/jobs/{parent}/retry", {"from": "checkpoint", "config": {"steps": 30}})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["parent"], job["status"], job["attempt"], job["tags"]) == (parent, "queued", 0, {"a": "b"})
    assert job["progress"]["step"] == 20
    assert job["progress"]["total_steps"] == job["config"]["steps"] == 30
    again = api.post(f"/v1/jobs/{parent}/retry", {"from": "start"}).json()
    assert again["progress"]["step"] == 0
    assert again["config"] == api.get(f"/v1/jobs/{parent}").json()["config"]


def test_a_retry_without_a_checkpoint_starts_anew_unless_it_asks_for_one(api: Api):
    job = api.job()["id"]
    problem(api.post(f"/v1/jobs/{job}/retry"), 409)
    wish(api, job, "cancel")
    assert pointers(api.post(f"/v1/jobs/{job}/retry", {"from": "checkpoint"})) == ["/from"]
    retried = api.post(f"/v1/jobs/{job}/retry")
    assert retried.status_code == 201
    assert retried.json()["progress"]["step"] == 0


TOO_MUCH: list[tuple[dict[str, Any], str]] = [
    ({"width": 8}, "/config/width"),
    ({"encoder": "small"}, "/config/encoder"),
    ({"res_blocks": 1}, "/config/res_blocks"),
    ({"steps": 10}, "/config/steps"),
    ({"nonsense": 1}, "/config/nonsense"),
]


def test_a_checkpoint_does_not_carry_another_architecture(api: Api):
    retry = f"/v1/jobs/{trained(api)}/retry"
    told = [pointers(api.post(retry, {"from": "checkpoint", "config": config})) for config, _ in TOO_MUCH]
    assert told == [[pointer] for _, pointer in TOO_MUCH]


def test_a_retry_of_a_retry_that_never_ran_starts_where_that_one_would(api: Api):
    parent = trained(api)
    child = api.post(f"/v1/jobs/{parent}/retry", {"from": "checkpoint"}).json()["id"]
    wish(api, child, "cancel")
    grandchild = api.post(f"/v1/jobs/{child}/retry", {"from": "checkpoint"}).json()
    assert (grandchild["parent"], grandchild["progress"]["step"]) == (child, 20)


# --- idempotency and tenants ------------------------------------------------------------------------------------------


def test_the_same_key_and_body_get_the_same_job(api: Api):
    headers = {"Idempotency-Key": "k1"}
    first = api.post("/v1/jobs", small_job(), headers=headers)
    again = api.post("/v1/jobs", small_job(), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    assert pointers(api.post("/v1/jobs", small_job(seed=1), headers=headers)) == ["/header/idempotency-key"]
    assert pointers(api.post(f"/v1/jobs/{first.json()['id']}/retry", headers=headers)) == ["/header/idempotency-key"]
    assert len(api.get("/v1/jobs").json()["data"]) == 1


def test_a_refused_request_leaves_its_key_free(api: Api):
    headers = {"Idempotency-Key": "k1"}
    problem(api.post("/v1/jobs", small_job(config={"encoder": "vgg16"}), headers=headers), 422)
    assert api.post("/v1/jobs", small_job(), headers=headers).status_code == 201


def test_the_same_key_at_the_same_moment_makes_one_job(api: Api):
    def submit(_: int) -> tuple[int, str]:
        answer = api.post("/v1/jobs", small_job(), headers={"Idempotency-Key": "k1"})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(submit, range(16)))
    assert len(answers) == 1
    assert len(api.get("/v1/jobs").json()["data"]) == 1


def test_two_tenants_use_the_same_idempotency_key(api: Api, stranger: Api):
    stranger.add_dataset("photos")
    stranger.add_dataset("paintings")
    headers = {"Idempotency-Key": "k1"}
    mine = api.post("/v1/jobs", small_job(), headers=headers).json()["id"]
    theirs = stranger.post("/v1/jobs", small_job(), headers=headers)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine


def test_another_tenants_job_is_not_there(api: Api, stranger: Api):
    job = api.job()["id"]
    assert stranger.get("/v1/jobs").json()["data"] == []
    assert pointers(stranger.post("/v1/jobs", small_job()))[0].startswith("/datasets/")
    for path in ("", "/events", "/metrics", "/logs", "/checkpoints", "/samples", "/attempts"):
        problem(stranger.get(f"/v1/jobs/{job}{path}"), 404)
        problem(api.get(f"/v1/jobs/job_nonsense{path}"), 404)
    for verb in ("cancel", "pause", "resume", "retry"):
        problem(stranger.post(f"/v1/jobs/{job}/{verb}"), 404)
    assert api.get(f"/v1/jobs/{job}").json()["status"] == "queued"


# --- the hands of a worker --------------------------------------------------------------------------------------------


def start(api: Api) -> Ticket:
    """Claim what is first, and begin it."""
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="test", lease_s=60)
    assert claimed is not None, "no room"
    with api.db.write() as tx:
        queue.begin(tx, claimed.ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=20, lease_s=60)
    return claimed.ticket


def waiting(api: Api, job: dict[str, Any]) -> tuple[str, int | None]:
    found = api.get(f"/v1/jobs/{job['id']}").json()["waiting"]
    return found["reason"], found["position"]


def wish(api: Api, job_id: str, verb: str) -> dict[str, Any]:
    answer = api.post(f"/v1/jobs/{job_id}/{verb}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_of_several_workers_may_start_with_fewer(api: Api):
    resources = {"workers": 2, "min_workers": 1, "cpus_per_worker": 2}
    job = api.job(config=small_job()["config"] | {"meta_batch": 2}, resources=resources)
    assert job["resources"] == resources | {"gpus_per_worker": 0}
    strict = api.job(config=small_job()["config"] | {"meta_batch": 2}, resources={"workers": 2})
    assert strict["resources"]["min_workers"] == 2


@pytest.mark.parametrize(
    ("resources", "pointer", "detail"),
    [
        ({"workers": 3}, "/resources/workers", "3 were given, but config.meta_batch is 2"),
        ({"workers": 1, "min_workers": 2}, "/resources/min_workers", "2 were given, but resources.workers is 1"),
    ],
)
def test_workers_that_would_have_nothing_to_do_are_refused(
    api: Api, resources: dict[str, int], pointer: str, detail: str
):
    body = small_job(config=small_job()["config"] | {"meta_batch": 2}, resources=resources)
    answer = api.post("/v1/jobs", body)
    assert pointers(answer) == [pointer]
    assert detail in problem(answer, 422)["detail"]
