"""An attempt from its row to a published model."""

from __future__ import annotations

from tests.workers.bench import ADAPT, TRAIN, Bench


def test_a_training_job_ends_in_a_model_with_every_metric_once(stocked: Bench) -> None:
    job = stocked.finished("metastyle/train", config=TRAIN)

    assert (job.status, job.step, job.total_steps) == ("succeeded", 6, 6)
    assert sorted(stocked.metric(job.id, "total_loss")) == [1, 2, 3, 4, 5, 6]
    assert {c.step for c in stocked.checkpoints(job.id)} == {2, 4, 6}
    model = stocked.model(job.id)
    names = {file["path"] for file in model.files}
    assert {"model.safetensors", "config.json", "README.md"} < names
