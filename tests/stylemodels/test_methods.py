"""What every method owes, asked of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from stylemodels import checkpoint
from stylemodels.describe import describe_method, library_digest, on_meta_device
from stylemodels.encoders import encoders_description
from stylemodels.export import write_model
from stylemodels.method import Style, Task
from stylemodels.methods import all_methods, find_task
from stylemodels.settings import build, json_schema
from stylemodels.stylize import load_model
from stylemodels.train import Run
from tests.stylemodels.published import FALLING_TERM, PARAMETERS, PUBLISHED, UNMOVED
from tests.stylemodels.toy import SMALL, advance, fixed_batch, paintings, photos, small_run, small_task

CLASSES = {f"{method.slug}/{name}": task for method in all_methods().values() for name, task in method.tasks.items()}
TASKS = sorted(name for name, task in CLASSES.items() if task.trains)
ALL = sorted(CLASSES)
CLASSIFIERS = ["srm/classify"]  # tell classes and draw nothing
DRAWING = [name for name in ALL if name not in CLASSIFIERS]


def task_class_of(name: str) -> type[Task]:
    method, task = find_task(name)
    return method.tasks[task]


def falling(name: str, terms: Mapping[str, float]) -> float:
    """What must fall on one batch."""
    if name in FALLING_TERM:
        return terms[FALLING_TERM[name]]
    return sum(value for term, value in terms.items() if term.endswith("_loss"))


def phase_starts(run: Run) -> list[int]:
    starts, before = [], 0
    for phase in run.phases:
        starts.append(before)
        before += phase.steps
    return starts


def test_every_task_has_its_row_in_the_tables():
    assert set(ALL) == set(SMALL) == set(PUBLISHED) == set(PARAMETERS)


def test_an_unknown_task_is_refused_with_a_list_of_what_there_is():
    with pytest.raises(ValueError, match=r"no task 'metastile'; there are .*metastyle/adapt"):
        find_task("metastile")


@pytest.mark.parametrize("name", TASKS)
def test_the_defaults_are_the_published_ones(name: str):
    properties = json_schema(task_class_of(name).Config)["properties"]
    assert {field: properties[field]["default"] for field in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", TASKS)
def test_the_parameters_are_as_many_as_published(name: str):
    task = on_meta_device(task_class_of(name))
    counts = {part: sum(p.numel() for p in task.get_submodule(part).parameters()) for part in task.model_parts}
    assert counts == PARAMETERS[name]


@pytest.mark.parametrize("name", TASKS)
def test_three_steps_change_every_trained_parameter_and_no_frozen_one(name: str):
    run = small_run(name)
    for start in phase_starts(run):
        advance(run, start - run.step)
        before = {n: p.detach().clone() for n, p in run.task.named_parameters()}
        trained = {n for n, p in run.task.named_parameters() if p.requires_grad}
        assert trained, "somebody learns"
        advance(run, 3)
        for parameter_name, parameter in run.task.named_parameters():
            if parameter_name not in trained:
                assert torch.equal(parameter, before[parameter_name]), f"{parameter_name} is frozen"
            elif not parameter_name.endswith(tuple(UNMOVED.get(name, ()))):
                assert not torch.equal(parameter, before[parameter_name]), f"{parameter_name} is trained"


@pytest.mark.parametrize("name", TASKS)
def test_on_one_batch_the_loss_falls(name: str):
    run = small_run(name)
    batch = fixed_batch(run.task)
    losses = [falling(name, run.advance(batch)) for _ in range(20)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", TASKS)
def test_stopped_in_every_phase_a_run_ends_with_the_same_bytes(name: str, tmp_path: Path):
    whole = small_run(name)
    starts = phase_starts(whole)
    end = starts[-1] + 4
    advance(whole, end)
    stopped = small_run(name)
    for stop in [start + 2 for start in starts]:
        advance(stopped, stop - stopped.step)
        checkpoint.save(stopped.snapshot(), tmp_path / "x")
        stopped = small_run(name)
        stopped.restore(checkpoint.load(tmp_path / "x"))
    advance(stopped, end - stopped.step)
    assert checkpoint.to_files(stopped.snapshot()) == checkpoint.to_files(whole.snapshot())


@pytest.mark.parametrize("name", DRAWING)
def test_a_published_model_draws_pictures_of_the_content_s_size_and_range(name: str, tmp_path: Path):
    task = small_task(name)
    if task.trains:
        advance(Run(task, seed=0), 1)
    method, task_name = find_task(name)
    write_model(tmp_path, task, method, task_name)
    model = load_model(tmp_path)
    content = photos(1, 64)[..., :45]
    result = model.stylize(content, [Style(paintings(1, 40))] * model.task.styles[0])
    assert result.shape == content.shape
    assert result.isfinite().all()
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_published_classifier_tells_classes_and_refuses_to_draw(name: str, tmp_path: Path):
    task = small_task(name)
    advance(Run(task, seed=0), 1)
    method, task_name = find_task(name)
    write_model(tmp_path, task, method, task_name)
    model = load_model(tmp_path)
    content = photos(1, 64)[..., :45]
    table = model.class_table(content)
    assert list(table.values()) == sorted(table.values(), reverse=True)
    assert sum(table.values()) == pytest.approx(1)
    assert table.keys() == {"one", "other"}
    assert not task.draws, "asked before a model is loaded"
    with pytest.raises(ValueError, match=f"a model of {name} draws no pictures"):
        model.stylize(content)


@pytest.mark.parametrize("name", TASKS)
def test_half_precision_gives_finite_losses(name: str):
    run = small_run(name, precision="bf16")
    assert all(torch.tensor(list(terms.values())).isfinite().all() for terms in advance(run, 2))


@pytest.mark.parametrize("name", ALL)
def test_settings_are_described_in_json_that_their_defaults_keep_to(name: str):
    task_class = task_class_of(name)
    for config in (task_class.Config, task_class.Controls):
        schema = json_schema(config)
        Draft202012Validator.check_schema(schema)
        assert Draft202012Validator(schema).is_valid({n: p["default"] for n, p in schema["properties"].items()})
        assert all(prop["description"] for prop in schema["properties"].values())
        assert isinstance(build(config, {}), config)


def test_the_description_of_a_method_is_whole():
    method, _ = find_task("metastyle")
    description = describe_method(method)
    adapt = description["tasks"]["adapt"]
    assert (description["method"], description["paper"]) == ("metastyle", "arXiv:1812.05233")
    assert adapt["datasets"] == {"content": "images"}
    assert (adapt["base_model"], adapt["base_model_required"], adapt["style_image"]) == ("metastyle/train", False, True)
    assert adapt["parameters"] == {"network": 1_679_235}
    assert adapt["phases"] == [{"name": "train", "steps": 200}]
    assert list(adapt["controls"]["properties"]) == ["strength", "size", "preserve_color", "passes"]


def test_the_code_s_digest_is_that_of_its_files():
    assert library_digest() == library_digest()
    assert len(library_digest()) == 64


def test_every_encoder_that_a_config_names_is_described():
    for name in ALL:
        if (setting := json_schema(task_class_of(name).Config)["properties"].get("encoder")) is not None:
            assert set(setting["enum"]) <= set(encoders_description())
