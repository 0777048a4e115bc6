"""A finished job's model: files first, one transaction then, and a card that says where it comes from."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.code import code_digest
from tests.waiting import wait_until
from tests.workers.bench import TRAIN, Bench, photos
from tests.workers.running import at_work


@pytest.fixture
def ready(bench: Bench) -> Bench:
    bench.dataset("photos", photos(4))
    bench.dataset("paintings", photos(2, first_seed=100))
    return bench


def test_every_file_of_a_model_lies_where_its_row_says(stocked: Bench) -> None:
    model = stocked.model(stocked.finished("metastyle/train", config=TRAIN).id)

    assert {file["path"].partition("/")[0] for file in model.files} == {
        "model.safetensors", "config.json", "README.md", "samples",
    }  # fmt: skip
    for file in model.files:
        content = stocked.objects.get(f"{model.prefix}/{file['path']}")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
    there = {key.removeprefix(f"{model.prefix}/") for key in stocked.objects.keys(model.prefix)}
    assert there == {file["path"] for file in model.files}


def test_the_card_names_what_the_model_was_made_of_and_the_model_file_does_not(stocked: Bench) -> None:
    job = stocked.finished("metastyle/train", config=TRAIN, publish_as="meta")
    model = stocked.model(job.id)

    assert model.lineage == {
        "job": job.id,
        "datasets": {"content": "photos@1", "style": "paintings@1"},
        "base_model": None,
        "code": code_digest(),
    }
    card = stocked.objects.get(f"{model.prefix}/README.md").decode()
    for origin in (job.id, "# meta", "photos@1", "paintings@1", "total_loss"):
        assert origin in card
    shown = [file["path"] for file in model.files if file["path"].startswith("samples/")]
    assert shown
    assert all(f"]({path})" in card for path in shown)
    assert job.id.encode() not in stocked.model_bytes(job.id)
    config = json.loads(stocked.objects.get(f"{model.prefix}/config.json"))
    assert config["config"] == model.config == job.config


def test_jobs_that_publish_under_one_name_at_the_same_moment_get_a_version_each(ready: Bench) -> None:
    for _ in range(3):
        ready.submit("metastyle/train", config={**TRAIN, "steps": 1}, publish_as="shared")
    tickets = [ready.claim() for _ in range(3)]

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(ready.run, tickets)) == ["succeeded"] * 3

    assert sorted(ready.model(ticket.job_id).version for ticket in tickets) == [1, 2, 3]
    assert {ready.job(ticket.job_id).model_version for ticket in tickets} == {1, 2, 3}


def test_a_superseded_worker_publishes_nothing(ready: Bench) -> None:
    job_id = ready.submit("metastyle/train", config={**TRAIN, "steps": 60, "preview_every": 500})
    first = ready.claim()
    with at_work(ready, first) as outcome:
        wait_until(lambda: ready.job(job_id).status == "running", 20, "it has begun")
        ready.lose(first)
        second = ready.claim()
        assert outcome.result(30) == "superseded"
    assert ready.job(job_id).model_version is None

    assert ready.run(second) == "succeeded"
    assert ready.model(job_id).prefix.endswith("/a2/model")
