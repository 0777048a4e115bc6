"""What every method owes, asked of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from tests.stylemodels.toy import SMALL, advance, fixed_batch, paintings, photos, small_run, small_task

CLASSES = {f"{method.slug}/{name}": task for method in all_methods().values() for name, task in method.tasks.items()}
TASKS = sorted(name for name, task in CLASSES.items() if task.trains)
DRAWING = sorted(CLASSES)

# Parameters whose gradient is nothing but noise, by the end of their name, with the reason.
UNMOVED: Mapping[str, Mapping[str, str]] = {
    name: {
        "conv1.bias": "in front of an instance norm",
        "conv2.bias": "in front of an instance norm",
        "conv3.bias": "in front of an instance norm",
        "deconv1.bias": "in front of an instance norm",
        "deconv2.bias": "in front of an instance norm",
    }
    for name in ("metastyle/train", "metastyle/adapt", "johnson/train")
} | {"sanet/train": {"g.bias": "adds one number to a whole row of logits, which the softmax takes off again"}}
# The term that falls on one batch; without an entry the sum of the terms that end in `_loss`.
FALLING_TERM = {"metastyle/train": "total_loss", "metastyle/adapt": "total_loss"}
PARAMETERS = {
    "adain/train": {"decoder": 3_505_219},
    "collaborative-distillation/distill": {"encoders": 1_073_212, "decoders": 1_072_791},
    "collaborative-distillation/train-decoder": {"encoders": 17_120_444, "decoders": 17_118_927},
    "gatys/optimise": {},
    "johnson/train": {"network": 1_679_235},
    "linear/train": {"decoder": 3_505_219, "transform": 5_156_192},
    "linear/train-filter": {"decoder": 3_505_219, "transform": 5_156_192, "spn": 773_891},
    "metastyle/train": {"network": 1_679_235},
    "metastyle/adapt": {"network": 1_679_235},
    "sanet/train": {"transform": 4_461_056, "decoder": 3_505_219},
    "wct/train": {"decoders": 17_118_927},
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "adain/train": {
        "steps": 160_000,
        "batch_size": 8,
        "load_size": 512,
        "content_size": 256,
        "style_size": 256,
        "lr": 1e-4,
        "lr_decay": 5e-5,
        "content_weight": 1,
        "style_weight": 10,
        "encoder": "vgg19-normalised",
    },
    "collaborative-distillation/distill": {
        "encoder": "vgg19-normalised",
        "scheme": "wct",
        "stages": [5, 4, 3, 2, 1],
        "init": "l1_prune",
        "width_div": 4,
        "collaborator_div": 1,
        "beta": 10,
        "lambda_pixel": 1,
        "lambda_perc": 1,
        "lambda_perc_decoder": 0.01,
        "lambda_style": 10,
        "gram_norm": "hw",
        "final_relu": False,
        "load_size": 300,
        "content_size": 256,
        "style_size": 256,
        "batch_size": 16,
        "lr": 1e-4,
        "lr_decay": 0,
        "warmup": 0,
        "steps": 103_480,
        "bd_steps": [],
        "se_steps": [],
        "sd_steps": [],
        "warm_start": False,
    },
    "collaborative-distillation/train-decoder": {
        "encoder": "vgg19-normalised",
        "scheme": "wct",
        "stages": [5, 4, 3, 2, 1],
        "init": "itself",
        "lambda_pixel": 1,
        "lambda_perc_decoder": 0.01,
        "final_relu": False,
        "load_size": 300,
        "content_size": 256,
        "batch_size": 16,
        "lr": 1e-4,
        "steps": 103_480,
    },
    "gatys/optimise": {"encoder": "vgg19"},
    "johnson/train": {
        "steps": 40_000,
        "batch_size": 4,
        "content_size": 256,
        "lr": 1e-3,
        "content_weight": 1,
        "style_weight": 1e5,
        "encoder": "vgg16",
        "width": 32,
        "res_blocks": 5,
    },
    "linear/train": {
        "steps": 100_000,
        "layer": "r41",
        "matrix_size": 32,
        "content_layers": ["relu4_1"],
        "style_layers": ["relu1_1", "relu2_1", "relu3_1", "relu4_1"],
        "content_weight": 1.0,
        "style_weight": 0.02,
        "gram_reduction": "sum",
        "load_size": 300,
        "content_size": 256,
        "style_size": 256,
        "batch_size": 8,
        "lr": 1e-4,
        "lr_decay": 1e-5,
        "encoder": "vgg19-normalised",
    },
    "linear/train-filter": {
        "steps": 100_000,
        "load_size": 300,
        "content_size": 256,
        "batch_size": 8,
        "lr": 1e-3,
        "lr_decay": 1e-5,
    },
    "metastyle/train": {
        "steps": 100_000,
        "lr": 1e-5,
        "betas": [0.9, 0.999],
        "lr_decay": 2.5e-5,
        "batch_size": 4,
        "meta_batch": 4,
        "inner_steps": 1,
        "inner_lr": 1e-5,
        "inner_params": "in",
        "second_order": True,
        "resample_per_style": False,
        "content_size": 256,
        "style_size": 256,
        "style_resize": "squash",
        "val_fraction": 0.1,
        "content_weight": 1,
        "style_weight": 1e5,
        "grad_clip": None,
        "encoder": "vgg16",
        "width": 32,
        "res_blocks": 5,
        "checkpoint_every": 2000,
        "preview_every": 500,
        "precision": "fp32",
    },
    "metastyle/adapt": {
        "steps": 200,
        "lr": 1e-3,
        "only_in": False,
        "batch_size": 4,
        "content_size": 256,
        "style_size": 512,
        "content_weight": 1,
        "style_weight": 1e5,
        "encoder": "vgg16",
        "width": 32,
        "res_blocks": 5,
        "preview_steps": [0, 10, 50, 100, 200],
    },
    "sanet/train": {
        "steps": 160_000,
        "batch_size": 5,
        "load_size": 512,
        "keep_aspect": True,
        "content_size": 256,
        "style_size": 256,
        "lr": 1e-4,
        "lr_decay": 5e-5,
        "content_weight": 1.0,
        "style_weight": 3.0,
        "identity1_weight": 50.0,
        "identity2_weight": 1.0,
        "levels": "both",
        "attention": "sdpa",
        "chunk": 1024,
        "encoder": "vgg19-normalised",
        "precision": "fp32",
    },
    "wct/train": {
        "levels": [5, 4, 3, 2, 1],
        "feature_weight": 1.0,
        "steps": 103_480,
        "batch_size": 16,
        "load_size": 300,
        "content_size": 256,
        "lr": 1e-4,
        "encoder": "vgg19-normalised",
    },
}


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
    assert set(DRAWING) == set(SMALL) == set(PUBLISHED) == set(PARAMETERS)


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


@pytest.mark.parametrize("name", TASKS)
def test_half_precision_gives_finite_losses(name: str):
    run = small_run(name, precision="bf16")
    assert all(torch.tensor(list(terms.values())).isfinite().all() for terms in advance(run, 2))


@pytest.mark.parametrize("name", DRAWING)
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
    for name in DRAWING:
        if (setting := json_schema(task_class_of(name).Config)["properties"].get("encoder")) is not None:
            assert set(setting["enum"]) <= set(encoders_description())
