"""From a sweep's request to its trials: checked, drawn, complete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from orchestrator.api.sweep_views import RangeGiven, SweepCreate
from orchestrator.catalogue import TaskInfo
from orchestrator.problems import FieldProblem, Invalid, invalid_field, invalid_fields
from orchestrator.sweeps import Range, grid, rung_steps, samples
from stylemodels.schema import InvalidConfig, checked

MOST_TRIALS = 1000
MOST_SETTINGS = 20
SEED = "seed"  # of the training: what a space may name besides settings


class Plan(NamedTuple):
    """What a sweep will try."""

    trials: list[dict[str, Any]]  # settings of each
    rungs: list[int]  # steps at the end of each; one rung unless trials are stopped early
    reduction: int


def plan(body: SweepCreate, info: TaskInfo) -> Plan:
    """Raises Invalid that names the field."""
    space = _space(body, info)
    if body.strategy == "grid":
        return Plan(_grid(body, space), [], 0)
    if body.trials is None:
        raise invalid_field("/trials", f"is missing: how many settings {body.strategy} tries")
    trials = samples(space, body.trials, body.seed)
    if body.strategy == "random":
        _refuse_asha(body)
        return Plan(trials, [], 0)
    return Plan(trials, *_rungs(body, info))


def _grid(body: SweepCreate, space: Mapping[str, Sequence[Any] | Range]) -> list[dict[str, Any]]:
    if body.trials is not None:
        raise invalid_field("/trials", "is not for a grid, which tries every combination")
    _refuse_asha(body)
    lists = {name: choice for name, choice in space.items() if not isinstance(choice, Range)}
    for name in space.keys() - lists.keys():
        raise invalid_field(f"/space/{name}", "a grid takes lists; a range is for random and asha")
    count = math.prod(len(choice) for choice in lists.values())
    if count > MOST_TRIALS:
        raise invalid_field("/space", f"has {count} combinations, a sweep takes at most {MOST_TRIALS}")
    return grid(lists)


def _refuse_asha(body: SweepCreate) -> None:
    if body.asha is not None:
        raise invalid_field("/asha", f"is not for strategy {body.strategy}")


def _rungs(body: SweepCreate, info: TaskInfo) -> tuple[list[int], int]:
    if body.asha is None:
        raise invalid_field("/asha", "is missing: when trials are compared, {min_steps, reduction}")
    if body.metric is None:
        raise invalid_field("/metric", "is missing: what trials are compared by")
    if "steps" in body.space:
        raise invalid_field("/space/steps", "is what asha decides")
    if [stretch.steps for stretch in info.stretches] != [("steps",)] or info.stretches[0].each is not None:
        detail = f"{info.method}/{info.task} has several phases, so a finished part of it cannot be lengthened"
        raise invalid_field("/strategy", f"{detail}: take grid or random")
    most = body.job.config.get("steps", info.config["properties"]["steps"]["default"])
    if not isinstance(most, int):
        raise invalid_field("/job/config/steps", f"{most!r} was given, allowed is integer")
    if body.asha.min_steps > most:
        raise invalid_field("/asha/min_steps", f"{body.asha.min_steps} was given, the job has {most} steps")
    return rung_steps(body.asha.min_steps, body.asha.reduction, most), body.asha.reduction


def _space(body: SweepCreate, info: TaskInfo) -> dict[str, Sequence[Any] | Range]:
    if not 0 < len(body.space) <= MOST_SETTINGS:
        raise invalid_field("/space", f"names {len(body.space)} settings, allowed are 1 to {MOST_SETTINGS}")
    return {name: _choice(name, choice, info) for name, choice in body.space.items()}


def _choice(name: str, choice: Any, info: TaskInfo) -> Sequence[Any] | Range:
    pointer, properties = f"/space/{name}", {**info.config["properties"], SEED: {"type": "integer"}}
    if name not in properties:
        raise invalid_field(pointer, f"unknown setting; there are {', '.join(properties)}")
    if isinstance(choice, list):
        if not 0 < len(choice) <= MOST_TRIALS:
            raise invalid_field(pointer, f"{len(choice)} values were given, allowed are 1 to {MOST_TRIALS}")
        return _values(pointer, choice, properties[name])
    kinds = properties[name]["type"]
    integer = "integer" in kinds
    if not integer and "number" not in kinds:
        raise invalid_field(pointer, "is no number, so it takes a list of values and no range")
    return _range(pointer, choice, integer=integer)


def _values(pointer: str, choice: Sequence[Any], prop: Mapping[str, Any]) -> list[Any]:
    try:
        return [checked(prop, value, f"{pointer}/{place}") for place, value in enumerate(choice)]
    except InvalidConfig as error:
        raise invalid_fields([FieldProblem(e.pointer, e.detail) for e in error.errors]) from error


def _range(pointer: str, choice: Any, *, integer: bool) -> Range:
    try:
        given = RangeGiven.model_validate(choice)
    except ValidationError as error:
        wrong = [FieldProblem("/".join([pointer, *map(str, e["loc"])]), e["msg"]) for e in error.errors()]
        raise invalid_fields(wrong) from error
    if not given.low < given.high:
        raise invalid_field(f"{pointer}/high", f"{given.high} was given, it must be greater than low")
    if given.log and given.low <= 0:
        raise invalid_field(f"{pointer}/low", f"{given.low} was given, with log it must be greater than 0")
    if integer and math.ceil(given.low) > math.floor(given.high):
        raise invalid_field(pointer, "holds no integer")
    return Range(given.low, given.high, given.log, integer)


def settings_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial says of the config; the rest is the seed."""
    return {name: value for name, value in trial.items() if name != SEED}


def told_of(trial: Mapping[str, Any], problem: Invalid) -> Invalid:
    """A problem of a trial's settings as one of the space, where it is."""
    for error in problem.errors:
        name = error.pointer.removeprefix("/config/").partition("/")[0]
        if name in trial:
            return invalid_field(f"/space/{name}", error.detail)
    return problem
