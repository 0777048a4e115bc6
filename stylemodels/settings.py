"""One line per setting: type, default, bounds and help; JSON Schema, checks and command line follow from it.

Imports neither torch nor numpy.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stylemodels.schema import complete_config

ConfigT = TypeVar("ConfigT")
JSON_TYPES: Mapping[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}


def setting(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: int | None = None,
    small: Any = MISSING,
    from_base: bool = False,
) -> Any:
    """A field of a settings dataclass.

    ge, gt, le, lt, multiple_of: what a value (for a tuple: each item) must keep to.
    small: the default with an encoder that is not plain VGG; ours, beside the published one.
    from_base: with a base model the value is the base model's.
    """
    bounds = {
        "minimum": ge,
        "exclusiveMinimum": gt,
        "maximum": le,
        "exclusiveMaximum": lt,
        "multipleOf": multiple_of,
    }
    metadata: dict[str, Any] = {"help": help, "bounds": {key: b for key, b in bounds.items() if b is not None}}
    metadata["extras"] = {} if small is MISSING else {"x-small": jsonable(small)}
    if from_base:
        metadata["extras"]["x-from-base"] = True
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Settings of every training task."""

    checkpoint_every: int = setting(500, "steps between checkpoints", ge=1)
    preview_every: int = setting(500, "steps between preview grids", ge=1)
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16 runs convolutions in bfloat16; statistics stay in fp32")
    onnx: bool = setting(True, "the finished model also as model.onnx, where the method allows; takes some seconds")


def json_schema(config: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a dataclass whose fields are `setting`s."""
    hints = get_type_hints(config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "description": (config.__doc__ or "").strip().partition("\n")[0],
        "additionalProperties": False,
        "properties": {f.name: property_schema(hints[f.name], f.default, f.metadata) for f in fields(config)},
    }


def property_schema(hint: Any, default: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one field."""
    schema = type_schema(hint)
    bounded = schema["items"] if schema["type"] == "array" else schema
    bounded.update(metadata["bounds"])
    return {**schema, "default": jsonable(default), "description": metadata["help"], **metadata["extras"]}


def type_schema(hint: Any) -> dict[str, Any]:
    """The schema of a type: int, float, bool, str, a Literal of strings, tuples of these, `X | None`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is tuple:
        items = type_schema(arguments[0])
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": items}
        return {"type": "array", "items": items, "minItems": len(arguments), "maxItems": len(arguments)}
    if origin in (Union, types.UnionType):
        inner: dict[str, Any] = type_schema(next(a for a in arguments if a is not type(None)))
        if "enum" in inner:
            inner["enum"].append(None)
        inner["type"] = [inner["type"], "null"]
        return inner
    return {"type": JSON_TYPES[hint]}


def build(config: type[ConfigT], values: Mapping[str, Any], base_config: Mapping[str, Any] | None = None) -> ConfigT:
    """`values` over the base model's settings over the defaults, as `config`. Raises InvalidConfig (a ValueError)."""
    completed = complete_config(json_schema(config), values, base_config)
    return config(**{name: tuple(v) if isinstance(v, list) else v for name, v in completed.items()})


def as_json(config: Any) -> dict[str, Any]:
    """The settings as JSON values, in their order: what `build` makes the same object of."""
    return {name: jsonable(value) for name, value in asdict(config).items()}


def jsonable(value: Any) -> Any:
    """Tuples as lists."""
    return list(value) if isinstance(value, tuple) else value
