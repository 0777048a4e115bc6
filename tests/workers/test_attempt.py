"""An attempt from its row to its end, whatever that is."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.objects import Missing, log_key
from orchestrator.states import ErrorType, Move
from stylemodels import collapse
from tests.servers import S3Server
from tests.stylemodels.toy import SMALL
from tests.waiting import wait_until
from tests.workers.bench import ADAPT, TENANT, TRAIN, Bench, photos
from tests.workers.running import at_work, wait_for_step
from workers.attempt import told

LONG = {**TRAIN, "steps": 2000, "checkpoint_every": 1000, "preview_every": 2000}


def test_a_training_job_ends_in_a_model_with_every_metric_once(bench: Bench) -> None:
    bench.dataset("photos", photos(6))
    bench.dataset("paintings", photos(3, first_seed=100))

    job = bench.finished("metastyle/train", config=TRAIN)

    assert (job.status, job.step, job.total_steps, job.model_version) == ("succeeded", 6, 6, 1)
    assert sorted(bench.metric(job.id, "total_loss")) == [1, 2, 3, 4, 5, 6]
    assert job.images_per_second is not None
    assert [(c.step, c.status) for c in bench.checkpoints(job.id)] == [(2, "ready"), (4, "ready"), (6, "ready")]
    assert {sample.body["step"] for sample in bench.events(job.id, "sample")} == {3, 6}
    statuses = [event.body["status"] for event in bench.events(job.id, "status")]
    assert statuses == ["queued", "starting", "running", "succeeded"]
    [attempt] = bench.attempts(job.id)
    assert (attempt.outcome, attempt.resumed_from, attempt.actor) == ("succeeded", 0, f"run-{job.id}")


def test_two_jobs_of_other_names_with_one_seed_have_the_same_model_and_another_seed_another(stocked: Bench) -> None:
    first, second = (stocked.finished("metastyle/train", config=TRAIN, seed=5) for _ in range(2))
    other = stocked.finished("metastyle/train", config=TRAIN, seed=6)
    assert stocked.model_bytes(first.id) == stocked.model_bytes(second.id)
    assert stocked.model_bytes(first.id) != stocked.model_bytes(other.id)


def test_a_cancelled_job_is_over_at_once_and_publishes_nothing(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG)
    ticket = stocked.claim()
    with at_work(stocked, ticket) as outcome:
        wait_for_step(stocked, job_id, 1)
        stocked.move(job_id, Move.CANCEL)
        assert outcome.result(20) == "cancelled"
    assert stocked.job(job_id).status == "cancelled"
    assert stocked.job(job_id).model_version is None


@pytest.mark.parametrize(("wish", "status"), [(Move.PAUSE, "paused"), (Move.CANCEL, "cancelled")])
def test_a_stop_asked_for_before_the_start_is_granted_without_a_step(stocked: Bench, wish: Move, status: str) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG)
    ticket = stocked.claim()
    stocked.move(job_id, wish)

    assert stocked.run(ticket) == status
    assert stocked.job(job_id).status == status
    assert stocked.metric(job_id, "total_loss") == {}


def test_a_superseded_attempt_leaves_without_a_word(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG)
    first = stocked.claim()
    with at_work(stocked, first) as outcome:
        wait_for_step(stocked, job_id, 1)
        stocked.lose(first)
        second = stocked.claim()
        assert outcome.result(20) == "superseded"
    assert stocked.job(job_id).status == "starting"
    assert stocked.job(job_id).attempt == second.attempt == 2
    assert [attempt.outcome for attempt in stocked.attempts(job_id)] == ["lost", None]
    assert stocked.run(first) == "superseded", "nor can it begin anew"


def test_what_the_job_asks_for_and_cannot_be_done_is_invalid_and_never_retried(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=TRAIN)
    stocked.change(job_id, config={**stocked.job(job_id).config, "width": 5000})

    assert stocked.run(stocked.claim()) == "failed"

    error = stocked.job(job_id).error
    assert error is not None
    assert (error["type"], error["attempt"]) == (ErrorType.INVALID, 1)
    assert error["message"] == "width: 5000 was given, it must be at most 64"


def test_a_loss_that_is_no_number_ends_the_job_with_a_sentence(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config={**LONG, "lr": 1e30})

    assert stocked.run(stocked.claim()) == "failed"

    error = stocked.job(job_id).error
    assert error is not None
    assert error["type"] == ErrorType.DIVERGED
    assert "lower the learning rate" in error["message"]
    assert error["message"] in stocked.log_text(job_id)


def test_running_time_that_is_used_up_leaves_a_checkpoint_of_the_last_step(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, timeout_s=0.5)

    assert stocked.run(stocked.claim()) == "expired"

    job = stocked.job(job_id)
    assert job.error is not None
    assert job.error["type"] == ErrorType.TIMEOUT
    assert [checkpoint.step for checkpoint in stocked.checkpoints(job_id)] == [job.step]


def test_a_dataset_that_is_gone_from_the_store_is_an_error_of_storage_and_retried(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=TRAIN)
    stocked.objects.delete_prefix(str(stocked.version("photos", 1).prefix))

    assert stocked.run(stocked.claim()) == "queued"

    [attempt] = stocked.attempts(job_id)
    assert attempt.error is not None
    assert attempt.error["type"] == ErrorType.STORAGE


def test_the_object_store_away_before_the_start_costs_no_attempt(stocked: Bench, s3_server: S3Server) -> None:
    job_id = stocked.submit("metastyle/train", config=TRAIN)
    ticket = stocked.claim()
    s3_server.kill()
    with at_work(stocked, ticket) as outcome:
        lease = stocked.job(job_id).lease_until
        wait_until(lambda: stocked.job(job_id).lease_until != lease, 20, "the lease is renewed meanwhile")
        s3_server.start()
        assert outcome.result(60) == "succeeded"
    assert stocked.job(job_id).attempt == 1


def test_the_style_picture_is_found_in_the_shards_when_its_single_copy_is_gone(stocked: Bench) -> None:
    base = stocked.model(stocked.finished("metastyle/train", config=TRAIN).id)
    before = stocked.finished("metastyle/adapt", config=ADAPT, base=base)
    stocked.objects.delete_prefix(f"blobs/{TENANT}/")
    shutil.rmtree(stocked.platform.cache.folder)

    job = stocked.finished("metastyle/adapt", config=ADAPT, base=base)

    assert stocked.model_bytes(job.id) == stocked.model_bytes(before.id)


def test_the_log_of_an_attempt_is_kept_in_the_object_store(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config={**LONG, "lr": 1e30})
    stocked.run(stocked.claim())
    lines = [json.loads(line) for line in stocked.objects.get(log_key(TENANT, job_id, 1)).splitlines()]
    assert lines[-1]["level"] == "error"
    assert "lower the learning rate" in lines[-1]["text"]


def test_a_generator_that_has_collapsed_is_told_in_the_log(stocked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every checkpoint; here whatever it draws counts as all the same."""
    monkeypatch.setattr(collapse, "LEAST_VARIETY", 1e9)
    every = {"steps": 2, "checkpoint_every": 1, "preview_every": 2, "onnx": False}
    job = stocked.finished("tpfr/train", config={**SMALL["tpfr/train"], **every})
    lines = [json.loads(line) for line in stocked.objects.get(log_key(TENANT, job.id, 1)).splitlines()]
    told = [line["text"] for line in lines if line["level"] == "warning" and "mode collapse" in line["text"]]
    figures = ("validation_content_variety", "validation_style_variety")
    expected = [f"step {step}: {figure}" for step in (1, 2) for figure in figures]
    assert [text.partition(" is ")[0] for text in told] == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("lr: too high"), ErrorType.INVALID),
        (MemoryError(), ErrorType.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ErrorType.OUT_OF_MEMORY),
        (Missing("jobs/…"), ErrorType.STORAGE),
        (RuntimeError("something else"), ErrorType.INTERNAL),
        (KeyError("bug"), ErrorType.INTERNAL),
    ],
)
def test_every_error_has_a_machine_readable_cause(error: Exception, expected: ErrorType) -> None:
    assert told(error)[0] is expected
