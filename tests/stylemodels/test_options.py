"""What every model can be told, beside its own controls."""

from __future__ import annotations

from dataclasses import fields

import pytest
from jsonschema import Draft202012Validator

from stylemodels.describe import describe_task
from stylemodels.method import Task
from stylemodels.methods import all_methods, find_task
from stylemodels.options import OPTIONS, Options, controls_schema, draws_tiles, told
from stylemodels.schema import InvalidConfig
from tests.stylemodels.toy_drawing import Ahead, Blend, BlendControls, Invert

CLASSES = {f"{method.slug}/{name}": task for method in all_methods().values() for name, task in method.tasks.items()}


def adapt() -> type[Task]:
    method, name = find_task("metastyle/adapt")
    return method.tasks[name]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_method_has_a_control_of_a_common_name(name: str):
    task_class = CLASSES[name]
    own = {field.name for field in fields(task_class.Controls)}
    assert own & OPTIONS.keys() <= ({"strength"} if task_class.strength == "strength" else set())
    assert task_class.strength == "" or task_class.strength in own


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_controls_of_every_method_are_one_flat_schema_that_their_defaults_keep_to(name: str):
    schema = controls_schema(CLASSES[name])
    Draft202012Validator.check_schema(schema)
    defaults = {key: prop["default"] for key, prop in schema["properties"].items()}
    assert Draft202012Validator(schema).is_valid(defaults)
    assert all(prop["description"] for prop in schema["properties"].values())
    assert told(CLASSES[name], None) == told(CLASSES[name], defaults) == (Options(), CLASSES[name].Controls())
    assert ("tile" in defaults) == ("storage" in defaults) == draws_tiles(CLASSES[name])


def test_controls_are_taken_apart_into_the_models_own_and_the_common_ones():
    options, own = told(Blend, {"alpha": 0.25, "size": 64, "preserve_color": "coral"})
    assert own == BlendControls(alpha=0.25)
    assert options == Options(size=64, preserve_color="coral")


def test_strength_sets_the_control_that_the_task_names_and_null_leaves_it_alone():
    assert told(Blend, {"strength": 0.3}).controls.alpha == 0.3
    assert told(Blend, {"strength": 0.3, "alpha": 1.0}).controls.alpha == 0.3, "as the service completes it"
    assert told(Blend, {"strength": None, "alpha": 0.7}).controls.alpha == 0.7


def test_a_control_that_is_called_strength_already_is_there_once():
    schema = controls_schema(adapt())
    assert schema["properties"]["strength"]["default"] == 1.0
    assert told(adapt(), {"strength": 0.5}).controls.strength == 0.5
    assert told(adapt(), {"strength": 0.5}).options.strength is None


def test_what_makes_no_sense_for_a_model_is_not_offered_and_refused():
    with pytest.raises(InvalidConfig, match="strength: unknown setting"):
        told(Invert, {"strength": 0.5})
    with pytest.raises(InvalidConfig, match="style_size: unknown setting"):
        told(Invert, {"style_size": 256})
    with pytest.raises(InvalidConfig, match="preserve_color: 'coral' was given, allowed are none, luminance"):
        told(Invert, {"preserve_color": "coral"})
    with pytest.raises(InvalidConfig, match="tile: unknown setting"):
        told(Blend, {"tile": 512})
    assert {"tile", "storage"} <= controls_schema(Ahead)["properties"].keys()


@pytest.mark.parametrize("tile", [0, 256, 272, 1024])
def test_a_tile_is_0_or_a_multiple_of_16_from_256(tile: int):
    assert told(Invert, {"tile": tile}).options.tile == tile


@pytest.mark.parametrize("tile", [16, 240, 255, 257, -16])
def test_other_tiles_are_refused_by_name(tile: int):
    with pytest.raises(InvalidConfig, match=f"tile: {tile} was given"):
        told(Invert, {"tile": tile})


@pytest.mark.parametrize(
    ("name", "value"), [("passes", 0), ("passes", 11), ("size", -1), ("storage", "float64"), ("preserve_color", "hue")]
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object):
    with pytest.raises(InvalidConfig, match=f"{name}: "):
        told(Invert, {name: value})


def test_the_description_of_a_task_tells_the_common_controls_too():
    controls = describe_task(adapt())["controls"]["properties"]
    assert list(controls) == ["strength", "size", "preserve_color", "passes"]
