"""A worker's process: one attempt at a time, pictures in between."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import ModelVersion
from tests import images
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from tests.workers.bench import ADAPT, TRAIN, Bench, pin_model
from tests.workers.running import wait_for_step
from workers.process import Process

LONG = {**TRAIN, "steps": 2000, "checkpoint_every": 1000, "preview_every": 2000}


@pytest.fixture
def warm(sqlite_settings: Settings) -> Iterator[Process]:
    process = Process("warm-1", sqlite_settings, warm=True, threads=1)
    yield process
    process.close()


@pytest.fixture
def model(stocked: Bench) -> ModelVersion:
    base = stocked.model(stocked.finished("metastyle/train", config=TRAIN).id)
    return stocked.model(stocked.finished("metastyle/adapt", config=ADAPT, base=base).id)


PLAIN: Mapping[str, Any] = {
    "params": {}, "weights": None, "format": "png", "styles": 0, "masks": False, "regions": [0, 0],
    "init_image": False, "maps": False, "timeout_s": 60,
}  # fmt: skip


def ask(bench: Bench, body: Mapping[str, Any], **blobs: bytes) -> tuple[dict[str, Any], bytes]:
    """What the API does with a `stylize`."""
    request_id = uuid.uuid4().hex
    bench.platform.bus.request(request_id, {**PLAIN, **body}, blobs, expire_s=30)
    answer = bench.platform.bus.wait_for_answer(request_id, timeout_s=30)
    assert answer is not None
    return answer


def wait_until_idle(bench: Bench) -> None:
    wait_until(lambda: bench.platform.bus.idle_workers() == 1, 20, "a worker says that it is free")


def test_an_idle_worker_draws_a_picture_as_large_as_the_content(
    stocked: Bench, model: ModelVersion, warm: Process
) -> None:
    wait_until_idle(stocked)
    body = {"model": pin_model(model), "params": {"strength": 0.5}}

    head, data = ask(stocked, body, content=images.jpeg(75, 50))

    assert head == {"status": 200, "content_type": "image/png", "width": 75, "height": 50}
    assert Image.open(io.BytesIO(data)).size == (75, 50)


def test_the_second_picture_of_a_model_needs_no_object_store(
    stocked: Bench, model: ModelVersion, warm: Process
) -> None:
    body = {"model": pin_model(model), "format": "jpeg"}
    first, _ = ask(stocked, body, content=images.jpeg())
    stocked.objects.delete_prefix(model.prefix)
    second, data = ask(stocked, body, content=images.jpeg())
    assert first == second
    assert Image.open(io.BytesIO(data)).format == "JPEG"


def test_what_cannot_be_drawn_is_answered_with_the_field_and_the_reason(
    stocked: Bench, model: ModelVersion, warm: Process
) -> None:
    head, data = ask(stocked, {"model": pin_model(model)}, content=b"no picture")
    assert (head["status"], head["pointer"], data) == (422, "/content", b"")
    assert head["detail"].startswith("not a JPEG, PNG or WebP picture")
    assert ask(stocked, {"model": pin_model(model)}, content=images.jpeg())[0]["status"] == 200


def test_a_model_that_is_gone_is_answered_and_the_worker_lives_on(
    stocked: Bench, model: ModelVersion, warm: Process
) -> None:
    gone = pin_model(model) | {"prefix": "nowhere", "files": [f | {"sha256": "0" * 64} for f in model.files]}
    assert ask(stocked, {"model": gone}, content=images.jpeg())[0]["status"] == 503
    assert ask(stocked, {"model": pin_model(model)}, content=images.jpeg())[0]["status"] == 200


def test_redis_may_go_and_come_back_empty(
    stocked: Bench, model: ModelVersion, warm: Process, valkey_server: ValkeyServer
) -> None:
    wait_until_idle(stocked)
    valkey_server.kill()
    valkey_server.start()
    wait_until_idle(stocked)
    assert ask(stocked, {"model": pin_model(model)}, content=images.jpeg())[0]["status"] == 200


def test_a_worker_does_one_attempt_at_a_time_and_is_not_idle_meanwhile(stocked: Bench, warm: Process) -> None:
    wait_until_idle(stocked)
    job_id = stocked.submit("metastyle/train", config=LONG)
    ticket = stocked.claim()
    with ThreadPoolExecutor(2) as calls:
        run = calls.submit(warm.run, ticket)
        wait_for_step(stocked, job_id, 1)
        waiting = calls.submit(warm.wait, ticket)

        assert warm.current() == ticket
        assert stocked.platform.bus.idle_workers() == 0
        with pytest.raises(RuntimeError, match=f"warm-1 is busy with attempt 1 of {job_id}"):
            warm.run(ticket)

        stocked.lose(ticket)
        assert run.result(30) == waiting.result(30) == "superseded"
    assert warm.current() is None
    wait_until_idle(stocked)


def test_an_attempt_of_a_warm_worker_has_the_bytes_of_one_in_a_fresh_process(
    stocked: Bench, model: ModelVersion, warm: Process
) -> None:
    """Pictures that were drawn before, and what else the process did, leave no trace."""
    ask(stocked, {"model": pin_model(model)}, content=images.jpeg())
    job_id = stocked.submit("metastyle/train", config=TRAIN, seed=9)
    assert warm.run(stocked.claim()) == "succeeded"
    reference = stocked.finished("metastyle/train", config=TRAIN, seed=9)
    assert stocked.model_bytes(job_id) == stocked.model_bytes(reference.id)


def test_a_worker_tells_who_it_is(warm: Process) -> None:
    facts = warm.facts()
    assert facts["pid"] == os.getpid()
    assert len(facts["code"]) == 64
    assert warm.wait(Ticket("job_that_was_never_here", 1)) == "unknown"


def test_the_dispatcher_learns_about_workers_without_torch_or_sql() -> None:
    code = "import sys, workers.actors; print([m for m in ('torch', 'sqlalchemy', 'minio') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
