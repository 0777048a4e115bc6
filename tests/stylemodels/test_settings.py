from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from stylemodels.schema import InvalidConfig, complete_config
from stylemodels.settings import Common, as_json, build, json_schema, setting


@dataclass(frozen=True, kw_only=True)
class Example(Common):
    """Settings of an example.

    More words."""

    steps: int = setting(100, "steps", ge=1, le=1000)
    side: int = setting(64, "side", ge=32, multiple_of=4)
    lr: float = setting(1e-4, "rate", gt=0, small=1e-3)
    share: float = setting(0.1, "share", ge=0, lt=0.5)
    clip: float | None = setting(None, "clip", gt=0)
    mode: Literal["squash", "crop"] = setting("squash", "mode")
    flag: bool = setting(True, "flag")
    betas: tuple[float, float] = setting((0.9, 0.999), "betas", ge=0, lt=1)
    marks: tuple[int, ...] = setting((0, 10), "marks", ge=0)
    encoder: Literal["vgg16", "vgg19", "small", "random"] = setting("vgg16", "encoder", from_base=True)
    width: int = setting(32, "width", ge=4, from_base=True)


SCHEMA = json_schema(Example)


def errors_of(values: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        complete_config(SCHEMA, values, base)
    return {error.pointer: error.detail for error in caught.value.errors}


def test_the_schema_is_draft_2020_12_and_accepts_what_complete_makes():
    Draft202012Validator.check_schema(SCHEMA)
    assert list(Draft202012Validator(SCHEMA).iter_errors(complete_config(SCHEMA, {}))) == []


def test_a_field_s_one_line_gives_type_default_bounds_help_and_extras():
    assert SCHEMA["properties"]["lr"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 1e-4,
        "description": "rate",
        "x-small": 1e-3,
    }
    assert SCHEMA["properties"]["clip"]["type"] == ["number", "null"]
    assert SCHEMA["properties"]["mode"]["enum"] == ["squash", "crop"]
    assert SCHEMA["properties"]["betas"]["items"] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    assert SCHEMA["properties"]["width"]["x-from-base"] is True
    assert SCHEMA["additionalProperties"] is False
    assert {"checkpoint_every", "preview_every", "precision"} <= set(SCHEMA["properties"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1001),
        ("steps", 1.5),
        ("steps", True),
        ("steps", "7"),
        ("steps", None),
        ("steps", 2**63),
        ("side", 34),
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", True),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 10**400),
        ("share", 0.5),
        ("clip", 0),
        ("mode", "stretch"),
        ("mode", None),
        ("flag", 1),
        ("flag", "true"),
        ("betas", [0.9]),
        ("betas", 0.9),
        ("marks", "0"),
        ("precision", "fp16"),
        ("lrr", 1e-3),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(field: str, value: Any):
    assert list(errors_of({field: value})) == [f"/{field}"]


def test_an_item_of_a_list_is_named_by_its_place():
    assert list(errors_of({"betas": [0.9, 1.0]})) == ["/betas/1"]


def test_every_mistake_is_reported_and_says_what_was_given_and_allowed():
    errors = errors_of({"steps": 0, "mode": "stretch", "typo": 1})
    assert errors["/steps"] == "0 was given, it must be at least 1"
    assert errors["/mode"] == "'stretch' was given, allowed are squash, crop"
    assert "unknown setting" in errors["/typo"]


def test_numbers_as_json_writes_them_get_the_field_s_type():
    completed = complete_config(SCHEMA, {"steps": 1e3, "lr": 1, "marks": [1.0], "clip": 2})
    assert completed["steps"] == 1000
    assert type(completed["steps"]) is int
    assert type(completed["lr"]) is float
    assert type(completed["clip"]) is float
    assert [type(mark) for mark in completed["marks"]] == [int]


def test_our_validator_and_jsonschema_agree():
    validator = Draft202012Validator(SCHEMA)
    for field in SCHEMA["properties"]:
        for value in (None, True, -1, 0, 1, 4, 33, 64, 0.25, 1.0, "crop", "vgg19", [], [0.5, 0.5], [1, 2, 3]):
            try:
                complete_config(SCHEMA, {field: value})
            except InvalidConfig:
                assert not validator.is_valid({field: value}), (field, value)
            else:
                assert validator.is_valid({field: value}), (field, value)


@pytest.mark.parametrize(("encoder", "lr"), [("vgg16", 1e-4), ("vgg19", 1e-4), ("small", 1e-3), ("random", 1e-3)])
def test_a_second_default_holds_for_encoders_that_are_not_plain_vgg(encoder: str, lr: float):
    assert complete_config(SCHEMA, {"encoder": encoder})["lr"] == lr


def test_what_was_said_beats_the_second_default():
    assert complete_config(SCHEMA, {"encoder": "small", "lr": 0.5})["lr"] == 0.5


def test_what_the_base_model_fixes_comes_from_it_and_decides_the_second_default():
    completed = complete_config(SCHEMA, {}, {"encoder": "small", "width": 8, "steps": 7})
    assert (completed["encoder"], completed["width"], completed["steps"], completed["lr"]) == ("small", 8, 100, 1e-3)


def test_a_config_that_contradicts_the_base_model_is_refused_and_one_that_agrees_is_not():
    base = {"encoder": "small", "width": 8}
    assert list(errors_of({"width": 16}, base)) == ["/width"]
    assert complete_config(SCHEMA, {"width": 8}, base)["width"] == 8


def test_build_and_as_json_are_inverse():
    config = build(Example, {"betas": [0.5, 0.9], "clip": 1})
    assert config.betas == (0.5, 0.9)
    assert build(Example, as_json(config)) == config
    assert as_json(config) == complete_config(SCHEMA, {"betas": [0.5, 0.9], "clip": 1})


def test_completing_configs_needs_neither_torch_nor_numpy():
    code = "import sys, stylemodels.schema, stylemodels.settings; print({'torch', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
