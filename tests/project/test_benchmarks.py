"""The benchmarks of the style library know every task: its streams, its phases, its row in the table of speed."""

from __future__ import annotations

import pytest

from benchmarks import speed, step, tasks
from benchmarks.speed import NOT_BUILT, PUBLISHED, Asked, Found
from stylemodels.method import Task
from stylemodels.train import Run
from tests.stylemodels.published import PARAMETERS
from tests.stylemodels.toy import small_task

EVERY = tasks.tasks_named([])
TRAINED = [name for name in EVERY if tasks.task_class_of(name).trains]
TIMES = (0.25, 1.5)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def short_task(name: str) -> Task:
    """At toy size, but with phases as long as the benchmark makes those of the published one."""
    task_class = tasks.task_class_of(name)
    defaults = vars(task_class.Config())
    steps = {setting: defaults[setting] for stretch in task_class.stretches for setting in stretch.steps}
    return small_task(name, **{**steps, **step.shortened(task_class)})


def test_a_method_s_name_means_all_of_its_tasks():
    assert set(EVERY) == set(PARAMETERS)
    assert tasks.tasks_named(["metastyle"]) == ["metastyle/train", "metastyle/adapt"]
    assert tasks.tasks_named(["metastyle/adapt", "adain"]) == ["adain/train", "metastyle/adapt"]
    with pytest.raises(ValueError, match=r"no task 'metastile'; there are .*metastyle/adapt"):
        tasks.tasks_named(["metastile"])


@pytest.mark.parametrize("name", TRAINED)
def test_every_phase_is_short_and_gets_the_pictures_and_labels_that_it_wants(name: str):
    task = short_task(name)
    for phase in task.phases():
        assert phase.steps == step.STEPS
        task.begin(phase.name, 0)
        batch = tasks.pictures_of(task)
        for stream_name, stream in task.streams().items():
            assert batch[stream_name].shape == (stream.count, 3, stream.size, stream.size)
            if task.needs.datasets[stream.dataset] == "labelled":
                assert batch[f"{stream_name}_label"].shape == (stream.count,)


@pytest.mark.parametrize("name", ["linear/train", "srm/classify"])
def test_every_phase_is_measured(name: str):
    task = short_task(name)
    found = step.phase_figures(Run(task, seed=0))
    assert list(found) == [phase.name for phase in task.phases()]
    assert all(min(phase["seconds"], phase["images"], phase["flops"]) > 0 for phase in found.values())


def test_the_table_has_a_row_for_every_method_that_draws_and_one_for_the_one_that_is_only_quoted():
    drawing = {name: Found(sum(PARAMETERS[name].values()), 8_000_000, TIMES) for name in EVERY}
    lines = speed.table({**drawing, "johnson/train": Found(1_679_235, 1_679_235, ())}, speed.SIZES).splitlines()
    head, rule, *rows = (cells(line) for line in lines if line.startswith("|"))
    by_task = {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    assert set(rule) == {"---"}
    assert by_task.keys() == {*EVERY, "not built"} - {"johnson/train"}, "a model that draws nothing has no row"
    assert by_task["not built"]["its parameters"] == NOT_BUILT.parameters == "219.32 M"
    for name in by_task.keys() - {"not built", "gatys/optimise"}:
        assert by_task[name]["parameters"] == f"{sum(PARAMETERS[name].values()):,}"
        assert [by_task[name][f"{size}², s"] for size in speed.SIZES] == ["0.25", "1.5"]
    assert by_task["gatys/optimise"]["256², s"] == "≈ 0.25"
    assert lines[-1] == "≈ `gatys/optimise`: one step of its optimisation times 300."


def test_the_survey_s_rows_stand_beside_the_tasks_that_they_are_of():
    assert PUBLISHED.keys() | speed.ITERATED.keys() | step.SETTINGS.keys() | step.DRAWN.keys() <= set(EVERY)
    assert speed.told(PUBLISHED["wct/train"]) == ["Li et al.", "34.23 M", "0.6887", "1.2335", "any"]
    known = {name: speed.styles_of(tasks.task_class_of(name)) for name in PUBLISHED}
    assert known == {name: published.styles for name, published in PUBLISHED.items()}


@pytest.mark.parametrize("name", ["adain/train", "johnson/train"])
def test_a_drawing_reads_as_many_parameters_as_the_survey_counts(name: str):
    found = speed.measured(Asked(name, [32, 48]))
    assert found.parameters == sum(PARAMETERS[name].values())
    assert f"{found.read / 1e6:.2f} M" == PUBLISHED[name].parameters
    assert len(found.seconds) == 2
    assert min(found.seconds) > 0
