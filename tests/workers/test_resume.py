"""An interrupted job ends with the same bytes as an uninterrupted one, and as the library alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.states import Move
from stylemodels.folder_run import FolderRun
from tests.workers.bench import ADAPT, TRAIN, Bench, photos
from tests.workers.running import at_work, wait_for_step

LONG: Mapping[str, Any] = {**TRAIN, "steps": 60, "checkpoint_every": 10, "preview_every": 40}


def interrupted(bench: Bench, job_id: str, *, at: int) -> int:
    """Run an attempt and pause it once it has finished step `at`; the step that it was paused at."""
    ticket = bench.claim()
    with at_work(bench, ticket) as outcome:
        wait_for_step(bench, job_id, at)
        bench.move(job_id, Move.PAUSE)
        assert outcome.result() == "paused"
    paused_at = bench.job(job_id).step
    assert at <= paused_at < LONG["steps"], "it was interrupted in the middle"
    bench.move(job_id, Move.RESUME)
    return paused_at


@pytest.fixture
def uninterrupted(stocked: Bench) -> bytes:
    return stocked.model_bytes(stocked.finished("metastyle/train", config=LONG, seed=7).id)


def test_a_paused_job_goes_on_from_its_last_step_and_ends_with_the_same_bytes(
    stocked: Bench, uninterrupted: bytes
) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, seed=7)
    paused_at = interrupted(stocked, job_id, at=5)

    assert stocked.run(stocked.claim()) == "succeeded"

    assert [attempt.outcome for attempt in stocked.attempts(job_id)] == ["paused", "succeeded"]
    assert stocked.attempts(job_id)[1].resumed_from == paused_at
    assert sorted(stocked.metric(job_id, "total_loss")) == list(range(1, 61))
    assert stocked.model_bytes(job_id) == uninterrupted


def test_a_damaged_checkpoint_is_listed_as_such_and_the_one_before_is_used(
    stocked: Bench, uninterrupted: bytes
) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, seed=7)
    paused_at = interrupted(stocked, job_id, at=15)
    newest = stocked.checkpoints(job_id)[-1]
    assert newest.step == paused_at
    weights = f"{newest.prefix}/weights.safetensors"
    stocked.objects.put(weights, stocked.objects.get(weights)[:-1] + b"!")

    assert stocked.run(stocked.claim()) == "succeeded"

    expected = (paused_at - 1) // 10 * 10
    assert stocked.attempts(job_id)[1].resumed_from == expected
    damaged = [c.step for c in stocked.checkpoints(job_id) if c.status == "damaged"]
    assert damaged == [paused_at]
    assert f"checkpoint of step {paused_at} is damaged" in stocked.log_text(job_id)
    assert stocked.model_bytes(job_id) == uninterrupted


def test_a_job_whose_checkpoints_are_all_gone_starts_anew_and_ends_with_the_same_bytes(
    stocked: Bench, uninterrupted: bytes
) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, seed=7)
    interrupted(stocked, job_id, at=15)
    for checkpoint in stocked.checkpoints(job_id):
        stocked.objects.delete_prefix(checkpoint.prefix)

    assert stocked.run(stocked.claim()) == "succeeded"

    assert stocked.attempts(job_id)[1].resumed_from == 0
    assert stocked.model_bytes(job_id) == uninterrupted


def test_the_service_trains_what_the_library_trains_from_folders(stocked: Bench, tmp_path: Path) -> None:
    job = stocked.finished("metastyle/train", config=TRAIN, seed=3)

    for name, pictures in {"content": photos(6), "style": photos(3, first_seed=100)}.items():
        (tmp_path / name).mkdir()
        for path, content in pictures.items():
            (tmp_path / name / path).write_bytes(content)
    run = FolderRun(
        "metastyle/train",
        TRAIN,
        folders={name: tmp_path / name for name in ("content", "style")},
        out=tmp_path / "out",
        seed=3,
    )
    run.train(resume=False, say=lambda *_: None)

    assert stocked.model_bytes(job.id) == (run.model_folder / "model.safetensors").read_bytes()


def test_an_adaptation_is_what_the_library_makes_of_it_down_to_its_pictures(stocked: Bench, tmp_path: Path) -> None:
    base = stocked.model(stocked.finished("metastyle/train", config=TRAIN).id)
    config = {**ADAPT, "preview_steps": [0, 2]}
    job = stocked.finished("metastyle/adapt", config=config, base=base, seed=3)

    (tmp_path / "content").mkdir()
    (tmp_path / "base").mkdir()
    for path, content in photos(6).items():
        (tmp_path / "content" / path).write_bytes(content)
    for file in ("model.safetensors", "config.json"):
        (tmp_path / "base" / file).write_bytes(stocked.objects.get(f"{base.prefix}/{file}"))
    (tmp_path / "style.jpg").write_bytes(photos(1, first_seed=100)["000.jpg"])
    run = FolderRun(
        "metastyle/adapt",
        config,
        folders={"content": tmp_path / "content"},
        out=tmp_path / "out",
        seed=3,
        base=tmp_path / "base",
        style_image=tmp_path / "style.jpg",
    )
    run.train(resume=False, say=lambda *_: None)

    assert stocked.model_bytes(job.id) == (run.model_folder / "model.safetensors").read_bytes()
    pictures = {path.relative_to(run.out / "samples"): path.read_bytes() for path in run.out.glob("samples/*/*.jpg")}
    samples = [event.body for event in stocked.events(job.id, "sample")]
    assert {sample["step"] for sample in samples} == {0, 2, 3, 6}
    assert {
        Path(f"step-{sample['step']:08}") / f"{sample['name']}.jpg": stocked.objects.get(sample["key"])
        for sample in samples
    } == pictures


def test_a_retry_goes_on_from_the_checkpoint_of_its_parent(stocked: Bench) -> None:
    parent = stocked.finished("metastyle/train", config=TRAIN, seed=3)
    last = stocked.checkpoints(parent.id)[-1]
    start = {name: getattr(last, name) for name in ("attempt", "step", "prefix", "manifest_sha256")}

    longer = {**TRAIN, "steps": 9}
    retry = stocked.finished(
        "metastyle/train", config=longer, seed=3, parent=parent.id, start_from={"job": parent.id, **start}
    )

    whole = stocked.finished("metastyle/train", config=longer, seed=3)
    assert stocked.attempts(retry.id)[0].resumed_from == 6
    assert sorted(stocked.metric(retry.id, "total_loss")) == [7, 8, 9]
    assert stocked.model_bytes(retry.id) == stocked.model_bytes(whole.id)


def test_an_adaptation_of_no_steps_is_its_base_model(stocked: Bench) -> None:
    base = stocked.model(stocked.finished("metastyle/train", config=TRAIN).id)

    job = stocked.finished("metastyle/adapt", config={**ADAPT, "steps": 0}, base=base)

    assert stocked.model(job.id).lineage["base_model"] == f"{base.name}@{base.version}"
    adapted = stocked.model_tensors(job.id)
    assert all(adapted[name].equal(tensor) for name, tensor in stocked.model_tensors(base.job_id).items())
