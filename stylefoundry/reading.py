"""The JSON of the service's answers to the types of `types.py`, and back.

Fields that this version does not know are left out, so that a newer service can be talked to.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from stylefoundry.errors import Error

T = TypeVar("T")


def read(cls: type[T], answer: Mapping[str, Any]) -> T:
    """Build `cls` from a JSON object. Raises Error when a field without a default is missing or has another type."""
    hints = get_type_hints(cls)
    try:
        sent = {f.name: f.name.rstrip("_") for f in fields(cls)}  # type: ignore[arg-type]
        known = {name: _value(hints[name], answer[key]) for name, key in sent.items() if key in answer}
        return cls(**known)
    except (TypeError, ValueError, KeyError) as error:
        raise Error(f"the service's answer is not a {cls.__name__}: {error}") from error


def to_json(value: Any) -> Any:
    """The JSON that `value`, one of the types here or a list of them, was made from."""
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return _plain(asdict(value, dict_factory=lambda items: {name.rstrip("_"): item for name, item in items}))


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _value(inner, value)
    if origin is list:
        return [_value(arguments[0], item) for item in value]
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in value.items()}
    if origin is tuple:
        return tuple(value)
    if hint is datetime:
        return datetime.fromisoformat(value)
    return read(hint, value) if is_dataclass(hint) and isinstance(hint, type) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
