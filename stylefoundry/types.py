"""What the service answers, as light frozen types.

`read(Job, answer)` builds one from JSON: fields that this version does not know are left out, so that a newer service
can be talked to; fields that an older one does not send take the default here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from stylefoundry.errors import Error

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    step: int = 0
    total_steps: int = 0
    images_per_second: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True)
class Waiting:
    reason: str
    position: int | None = None


@dataclass(frozen=True)
class JobError:
    type: str
    message: str
    attempt: int | None = None


@dataclass(frozen=True)
class Job:
    id: str
    method: str
    task: str
    name: str
    status: str  # queued, paused, starting, running, pausing, cancelling, succeeded, failed, cancelled, expired
    phase: str  # pending, active, terminal
    attempt: int
    progress: Progress
    created_at: datetime
    config: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)  # role -> "name@version"
    style_image: str | None = None
    base_model: str | None = None  # "name@version"
    resources: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    publish_as: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    max_retries: int = 0
    timeout_s: float | None = None
    keep_checkpoints: int | None = None
    parent: str | None = None
    waiting: Waiting | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    model: str | None = None  # "name@version", once published


@dataclass(frozen=True)
class Event:
    """A row of a job's history. `body` holds what the kind of event adds: `status`, `points`, `lines`, …"""

    id: int
    event: str  # status, metric, log, checkpoint, sample
    at: datetime
    attempt: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One metric: (step, value) in the order of steps."""

    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class LogLine:
    at: datetime
    attempt: int
    level: str
    text: str


@dataclass(frozen=True)
class Checkpoint:
    step: int
    attempt: int
    status: str  # ready, damaged
    bytes: int


@dataclass(frozen=True)
class Sample:
    step: int
    attempt: int
    name: str
    width: int
    height: int
    url: str


@dataclass(frozen=True)
class Attempt:
    attempt: int
    outcome: str | None
    node: str | None = None
    pid: int | None = None
    resumed_from: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None


@dataclass(frozen=True)
class Refused:
    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    name: str
    version: int
    status: str  # ingesting, ready, rejected
    kind: str = "images"  # images, labelled
    hash: str | None = None
    count: int | None = None
    bytes: int | None = None
    classes: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    error: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class ModelFile:
    path: str
    size: int
    sha256: str
    url: str


@dataclass(frozen=True)
class Model:
    name: str
    version: int
    method: str
    task: str
    aliases: list[str] = field(default_factory=list)
    files: list[ModelFile] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    builtin: bool = False  # comes with the service: everybody has it


@dataclass(frozen=True)
class Key:
    id: str
    name: str
    tenant: str
    prefix: str
    admin: bool
    created_at: datetime
    revoked_at: datetime | None = None
    key: str | None = None  # the whole of it, in the answer that made it and never again


@dataclass(frozen=True)
class TaskInfo:
    """A task of a method: what it can be told and what it needs."""

    config: dict[str, Any]  # JSON Schema with defaults
    datasets: dict[str, str] = field(default_factory=dict)  # role -> images | labelled
    base_model: str | None = None  # "method/task"
    base_model_required: bool = False
    style_image: bool = False
    controls: dict[str, Any] = field(default_factory=dict)  # JSON Schema of what a finished model can be told
    styles: tuple[int, int] = (0, 0)  # fewest and most style pictures of a stylisation
    masks: bool = False  # a mask for each style
    regions: bool = False  # label maps of content and style
    trains: bool = True  # false: there is nothing to learn, so no job


@dataclass(frozen=True)
class Method:
    method: str
    title: str
    paper: str
    tasks: dict[str, TaskInfo]


def read(cls: type[T], answer: Mapping[str, Any]) -> T:
    """Build `cls` from a JSON object. Raises Error when a field without a default is missing or has another type."""
    hints = get_type_hints(cls)
    try:
        known = {f.name: _value(hints[f.name], answer[f.name]) for f in fields(cls) if f.name in answer}  # type: ignore[arg-type]
        return cls(**known)
    except (TypeError, ValueError, KeyError) as error:
        raise Error(f"the service's answer is not a {cls.__name__}: {error}") from error


def to_json(value: Any) -> Any:
    """The JSON that `value`, one of the types here or a list of them, was made from."""
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return _plain(asdict(value))


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
