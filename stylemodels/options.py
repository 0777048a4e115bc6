"""What every finished model can be told, beside what its own task can: size, colours, passes, tiles.

People see one flat JSON object of named controls; `controls_schema` describes it and `told` takes it apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from stylemodels.method import Task
from stylemodels.raster import DType
from stylemodels.schema import FieldError, InvalidConfig, complete_config
from stylemodels.settings import json_schema, setting

MIN_TILE_PX = 256


@dataclass(frozen=True, kw_only=True)
class Options:
    """Controls that `stylize.py` honours for every model."""

    strength: float | None = setting(
        None, "0 keeps the content, 1 takes the style: sets the model's own control; null leaves it alone", ge=0, le=1
    )
    size: int = setting(0, "shorter side of the content before drawing, pixels; 0 = as it is", ge=0, le=16_384)
    style_size: int = setting(0, "shorter side of every style picture, pixels; 0 = as it is", ge=0, le=8_192)
    preserve_color: Literal["none", "luminance", "coral"] = setting(
        "none", "luminance: only brightness comes from the style; coral: styles first get the content's colours"
    )
    passes: int = setting(1, "how often the result is drawn again, for a stronger style", ge=1, le=10)
    tile: int = setting(
        0, "draw in tiles of this side, pixels, from 256; 0 = whole where it fits", ge=0, le=16_384, multiple_of=16
    )
    storage: DType = setting("float32", "how pictures that are drawn in tiles are kept on disk; float16 takes half")

    def __post_init__(self) -> None:
        if 0 < self.tile < MIN_TILE_PX:
            detail = f"{self.tile} was given, it must be 0 or at least {MIN_TILE_PX}"
            raise InvalidConfig([FieldError("/tile", detail)])


OPTIONS = json_schema(Options)["properties"]


class Told(NamedTuple):
    """Controls taken apart."""

    options: Options
    controls: Any  # the task's own Controls


def draws_tiles(task_class: type[Task]) -> bool:
    """Whether the method can draw a picture in tiles."""
    return task_class.stylize_tiles is not Task.stylize_tiles


def controls_schema(task_class: type[Task]) -> dict[str, Any]:
    """JSON Schema of all that a finished model of the task can be told: its own controls, then the common ones.

    Left out is what makes no sense for it: `strength` where the task has no such control or calls it so itself,
    `style_size` and coral for models that take no style pictures, `tile` and `storage` where tiles cannot be drawn.
    """
    schema = json_schema(task_class.Controls)
    return {**schema, "properties": {**schema["properties"], **common_properties(task_class)}}


def common_properties(task_class: type[Task]) -> dict[str, Any]:
    """The properties of `Options` that a model of the task has."""
    left_out = set()
    if task_class.strength in ("", "strength"):
        left_out.add("strength")
    if task_class.styles[1] == 0:
        left_out.add("style_size")
    if not draws_tiles(task_class):
        left_out |= {"tile", "storage"}
    properties = {name: prop for name, prop in OPTIONS.items() if name not in left_out}
    if task_class.styles[1] == 0:
        colour = properties["preserve_color"]
        choices = [choice for choice in colour["enum"] if choice != "coral"]
        help = "luminance: only brightness comes from the style, colours stay the content's"
        properties["preserve_color"] = {**colour, "enum": choices, "description": help}
    return properties


def told(task_class: type[Task], controls: Mapping[str, Any] | None) -> Told:
    """Named controls, checked and completed. Where `strength` is given, it wins over the control that it sets.

    Raises InvalidConfig (a ValueError) that names what is unknown or out of range.
    """
    completed = complete_config(controls_schema(task_class), controls or {})
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in completed.items()
    }
    own_names = {f.name for f in fields(task_class.Controls)}
    own = task_class.Controls(**{name: value for name, value in values.items() if name in own_names})
    options = Options(**{name: value for name, value in values.items() if name not in own_names})
    if options.strength is not None:
        own = replace(own, **{task_class.strength: options.strength})
    return Told(options, own)
