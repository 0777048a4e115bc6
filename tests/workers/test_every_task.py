"""Every task of every method as a job: pictures in, a model out that draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from orchestrator.store.tables import Metric
from stylemodels.images import load_picture
from stylemodels.method import Style, Task
from stylemodels.methods import find_task
from stylemodels.stylize import load_model
from tests.images import jpeg
from tests.stylemodels.test_methods import CLASSIFIERS, TASKS
from tests.stylemodels.toy import SMALL
from tests.workers.bench import Bench

SHORT = {"steps": 2, "checkpoint_every": 2, "preview_every": 2, "onnx": False}


@pytest.mark.parametrize("task", TASKS)
def test_a_job_of_every_task_ends_with_a_model_that_draws(stocked: Bench, task: str, tmp_path: Path):
    base_task = task_class(task).needs.base_model if task_class(task).needs.base_model_required else None
    base = None
    if base_task is not None:
        base = stocked.model(stocked.finished(base_task, config={**SMALL[base_task], **SHORT}).id)

    job = stocked.finished(task, config={**SMALL[task], **SHORT}, base=base, seed=3)

    with stocked.db.read() as tx:
        steps = set(tx.scalars(select(Metric.step).where(Metric.job_id == job.id)))
    assert steps == set(range(1, job.total_steps + 1)), "every step has its figures"
    assert stocked.events(job.id, "sample"), "there is something to look at"
    model = stocked.model(job.id)
    for file in model.files:
        path = tmp_path / file["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stocked.objects.get(f"{model.prefix}/{file['path']}"))
    drawn = load_model(tmp_path)
    if task in CLASSIFIERS:
        assert drawn.class_table(load_picture(jpeg(52, 44, seed=5))).keys() == {"one", "other"}
        return
    styles = [Style(load_picture(jpeg(40, 48, seed=6)))] * drawn.task.styles[0]
    content = load_picture(jpeg(52, 44, seed=5))
    assert drawn.stylize(content, styles).shape == content.shape


def task_class(name: str) -> type[Task]:
    method, task_name = find_task(name)
    return method.tasks[task_name]
