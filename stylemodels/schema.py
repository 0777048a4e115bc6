"""Check and complete settings against the JSON Schema that `settings.json_schema` makes.

Plain dictionaries in and out, and no import of torch: the orchestrator uses this on what `describe` printed.
Beside the draft 2020-12 keywords a property can carry

    x-small       a second default, for encoders whose features are not plain VGG's
    x-from-base   true: the base model fixes the value
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PLAIN_VGG = ("vgg19", "vgg16")  # with any other encoder `x-small` is the default
INT64 = range(-(2**63), 2**63)


class FieldError(NamedTuple):
    """What is wrong with one field."""

    pointer: str  # JSON pointer inside the config: "/lr", "/betas/1"
    detail: str


class InvalidConfig(ValueError):
    """Settings that cannot be used, with one sentence per field."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.pointer.removeprefix('/') or 'config'}: {e.detail}" for e in errors))


def complete_config(
    schema: Mapping[str, Any], values: Mapping[str, Any], base_config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`values` over the base model's over the defaults, in the schema's order and types.

    A default follows the encoder (`x-small`). Whole floats become integers where an integer is asked for (1e5), and
    integers floats where a number is. Raises InvalidConfig with every field that is unknown, has the wrong type, is
    out of range, or contradicts the base model.
    """
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    errors = [
        FieldError(f"/{name}", f"unknown setting; there are {', '.join(properties)}")
        for name in values
        if name not in properties
    ]
    fixed = {
        name: base_config[name]
        for name, prop in properties.items()
        if base_config is not None and prop.get("x-from-base") and name in base_config
    }
    encoder = values.get("encoder", fixed.get("encoder", properties.get("encoder", {}).get("default")))
    completed: dict[str, Any] = {}
    for name, prop in properties.items():
        value = values.get(name, fixed.get(name, default_of(prop, encoder)))
        try:
            completed[name] = checked(prop, value, f"/{name}")
        except InvalidConfig as error:
            errors.extend(error.errors)
            continue
        if name in fixed and completed[name] != fixed[name]:
            detail = f"{value!r} was given, but the base model has {fixed[name]!r}: leave it out"
            errors.append(FieldError(f"/{name}", detail))
    if errors:
        raise InvalidConfig(errors)
    return completed


def default_of(prop: Mapping[str, Any], encoder: object) -> Any:
    """The default of one property under the chosen encoder."""
    if "x-small" in prop and encoder not in PLAIN_VGG:
        return prop["x-small"]
    return prop["default"]


def checked(prop: Mapping[str, Any], value: Any, pointer: str) -> Any:
    """`value` in the type that `prop` asks for. Raises InvalidConfig."""
    types = [prop["type"]] if isinstance(prop["type"], str) else prop["type"]
    if value is None and "null" in types:
        return None
    kind = next(name for name in types if name != "null")
    converted = CONVERSIONS[kind](value)
    if converted is None:
        allowed = " or ".join(types)
        raise InvalidConfig([FieldError(pointer, f"{shown(value)} was given, allowed is {allowed}")])
    if kind == "array":
        return checked_items(prop, converted, pointer)
    if "enum" in prop and converted not in prop["enum"]:
        choices = ", ".join(str(choice) for choice in prop["enum"] if choice is not None)
        raise InvalidConfig([FieldError(pointer, f"{shown(value)} was given, allowed are {choices}")])
    limits = [(key, *bound) for key, bound in BOUNDS.items() if key in prop]
    if broken := [f"{words} {prop[key]}" for key, words, holds in limits if not holds(converted, prop[key])]:
        raise InvalidConfig([FieldError(pointer, f"{shown(value)} was given, it must be {' and '.join(broken)}")])
    return converted


def checked_items(prop: Mapping[str, Any], values: list[Any], pointer: str) -> list[Any]:
    """The same for the items of an array, and its length."""
    fewest, most = prop.get("minItems", 0), prop.get("maxItems", len(values))
    if not fewest <= len(values) <= most:
        raise InvalidConfig([FieldError(pointer, f"{len(values)} items were given, allowed are {fewest} to {most}")])
    return [checked(prop["items"], value, f"{pointer}/{n}") for n, value in enumerate(values)]


def shown(value: object) -> str:
    """What was given, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value in INT64 else None


def as_number(value: Any) -> float | None:
    if type(value) is int and value in INT64:
        value = float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def as_boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def as_string(value: Any) -> str | None:
    """Only what every database and file can hold: no NUL, no lone surrogate."""
    fit = isinstance(value, str) and "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return value if fit else None


def as_array(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, list | tuple) else None


CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "integer": as_integer,
    "number": as_number,
    "boolean": as_boolean,
    "string": as_string,
    "array": as_array,
}
BOUNDS: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "exclusiveMinimum": ("greater than", lambda value, bound: value > bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "exclusiveMaximum": ("less than", lambda value, bound: value < bound),
    "multipleOf": ("a multiple of", lambda value, bound: value % bound == 0),
}
