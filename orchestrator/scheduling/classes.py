"""Classes of priority, as the setting `classes` declares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

DEFAULT_CLASS = "standard"
DEFAULT_CLASSES = (
    '{"spare": {"level": 0, "preemptible": true}, "standard": {"level": 1}, "urgent": {"level": 2, "preempts": true}}'
)


@dataclass(frozen=True)
class PriorityClass:
    """What it means to be of a class."""

    level: int  # jobs of a higher level go first
    preemptible: bool = False  # its running jobs may be asked to make room
    preempts: bool = False  # its jobs may take the room of preemptible ones of a lower level


UNDECLARED = PriorityClass(level=0)  # of jobs whose class was taken out of the settings since


@cache
def parse_classes(text: str) -> Mapping[str, PriorityClass]:
    """Read `{"name": {"level": 1, "preemptible": false, "preempts": false}, …}`.

    Raises ValueError that names the class and the field.
    """
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"classes is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError("classes is no JSON object: name -> {level, preemptible, preempts}")
    if DEFAULT_CLASS not in given:
        raise ValueError(f"classes has no {DEFAULT_CLASS!r}: jobs that name none are of it")
    return {name: _parse(name, declared) for name, declared in given.items()}


def _parse(name: str, declared: object) -> PriorityClass:
    kinds = {field.name: int if field.name == "level" else bool for field in fields(PriorityClass)}
    if not isinstance(declared, dict) or "level" not in declared:
        raise ValueError(f"classes: {name} needs an object with a level")
    for key, value in declared.items():
        if key not in kinds:
            raise ValueError(f"classes: {name} has {key!r}; there are {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            raise ValueError(f"classes: {key} of {name} is {value!r}, not {kinds[key].__name__}")
    return PriorityClass(**declared)
