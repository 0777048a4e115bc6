"""A comparison on the real stores: every model draws, pictures and figures are there, a sheet at the end."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image

from orchestrator.ids import new_id
from orchestrator.states import Move
from orchestrator.store import comparisons, jobs
from orchestrator.store.tables import Sample
from stylemodels.sheet import GAP_PX, TILE_PX
from tests.stylemodels.toy import SMALL
from tests.workers.bench import TENANT, TRAIN, Bench

SHORT = {"steps": 2, "checkpoint_every": 2, "preview_every": 2, "onnx": False}


@pytest.fixture
def models(stocked: Bench) -> list[dict[str, Any]]:
    """A model that takes styles, and one of a single style."""
    trained = {
        "arbitrary": stocked.finished("adain/train", config={**SMALL["adain/train"], **SHORT}),
        "single": stocked.finished("metastyle/train", config=TRAIN),
    }
    versions = {name: stocked.model(job.id) for name, job in trained.items()}
    return [
        {
            "name": name, "model": f"{version.name}@1", "method": version.method, "note": "two steps", "controls": {},
            "prefix": version.prefix, "files": version.files,
        }
        for name, version in versions.items()
    ]  # fmt: skip


def submitted(bench: Bench, models: list[dict[str, Any]], **changes: Any) -> str:
    def entries(name: str, count: int) -> list[dict[str, str]]:
        paths: Mapping[str, str] = bench.version(name, 1).paths
        return [{"path": path, "sha256": paths[path]} for path in sorted(paths)[:count]]

    config = {
        "models": models, "content": entries("photos", 2), "style": entries("paintings", 1), "size": 32,
        "encoder": "random",
    }  # fmt: skip
    pins = {role: bench._pin(name) for role, name in (("content", "photos"), ("style", "paintings"))}
    made = jobs.NewJob(
        new_id(comparisons.PREFIX), TENANT, method=comparisons.PREFIX, task=comparisons.TASK, name="c",
        config=config | changes, datasets=pins, cpus=1, gpus=0, max_retries=2, total_steps=len(models),
    )  # fmt: skip
    with bench.db.write() as tx:
        return jobs.submit(tx, made).id


def samples(bench: Bench, job_id: str) -> dict[tuple[int, str], Sample]:
    with bench.db.read() as tx:
        return {(sample.step, sample.name): sample for sample in comparisons.pictures(tx, job_id)}


def test_every_model_draws_and_is_measured_by_one_worker(stocked: Bench, models: list[dict[str, Any]]):
    comparison_id = submitted(stocked, models)

    assert stocked.run(stocked.claim()) == "succeeded", stocked.log_text(comparison_id)

    drawn = samples(stocked, comparison_id)
    pairs = {(place, f"{content}-1") for place in (1, 2) for content in (1, 2)}
    given = {(0, name) for name in ("content-1", "content-2", "style-1")}
    assert set(drawn) == given | pairs | {(2, "sheet")}
    assert min(drawn[1, "1-1"].width, drawn[1, "1-1"].height) == 32
    sheet = Image.open(io.BytesIO(stocked.objects.get(drawn[2, "sheet"].key)))
    assert sheet.width == 4 * (TILE_PX + GAP_PX) + GAP_PX
    with stocked.db.read() as tx:
        figures = comparisons.figures(tx, comparison_id)
    assert set(figures) == {1, 2}
    for row in figures.values():
        assert row["seconds"] > 0
        assert row["content_loss"] > 0
        assert row["parameters"] > 0
    assert stocked.job(comparison_id).step == 2
    assert "arbitrary: " in stocked.log_text(comparison_id)


def test_a_lost_comparison_is_drawn_anew_by_one_worker(stocked: Bench, models: list[dict[str, Any]]):
    comparison_id = submitted(stocked, models)
    first = stocked.claim()
    stocked.lose(first)
    stocked.change(comparison_id, not_before=0.0)
    assert stocked.run(stocked.claim()) == "succeeded"
    assert stocked.run(first) != "succeeded", "the first attempt counts no more"
    assert len(samples(stocked, comparison_id)) == 8


def test_a_cancelled_comparison_stops(stocked: Bench, models: list[dict[str, Any]]):
    comparison_id = submitted(stocked, models)
    ticket = stocked.claim()
    stocked.move(comparison_id, Move.CANCEL)
    stocked.run(ticket)
    assert stocked.job(comparison_id).status == "cancelled"


def test_what_a_model_refuses_is_the_comparison_s_error(stocked: Bench, models: list[dict[str, Any]]):
    models[0]["controls"] = {"alpha": 7}
    comparison_id = submitted(stocked, models)
    assert stocked.run(stocked.claim()) == "failed"
    error = stocked.job(comparison_id).error
    assert error is not None
    assert error["type"] == "invalid"
    assert "arbitrary" in error["message"]
    assert "alpha" in error["message"]
