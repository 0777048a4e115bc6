"""What the service answers, as light frozen types; `reading.py` makes them from JSON.

Fields that an older service does not send take the default here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


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
    estimated_start: datetime | None = None


@dataclass(frozen=True)
class JobEstimate:
    """Seconds at work, as expected when the job was submitted."""

    seconds: float
    low: float
    high: float
    basis: str = ""


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
    # blocked, queued, paused, starting, running, pausing, cancelling, succeeded, failed, cancelled, expired
    status: str
    phase: str  # pending, active, terminal
    attempt: int
    progress: Progress
    created_at: datetime
    config: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)  # role -> "name@version"
    style_image: str | None = None
    base_model: str | None = None  # "name@version"
    base_job: str | None = None  # whose model it starts from
    depends_on: list[str] = field(default_factory=list)
    resources: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    publish_as: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    class_: str = "standard"
    priority: int = 0
    deadline: datetime | None = None
    preemptions: int = 0
    max_retries: int = 0
    timeout_s: float | None = None
    keep_checkpoints: int | None = None
    parent: str | None = None
    fanout: str | None = None
    sweep: str | None = None
    trial: int | None = None
    rung: int | None = None
    estimate: JobEstimate | None = None
    running_s: float = 0.0  # at work, over the attempts that are over
    waiting: Waiting | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    model: str | None = None  # "name@version", once published
    webhook: dict[str, Any] | None = None  # {"url", "events"}


@dataclass(frozen=True)
class Estimate:
    """What a job would take."""

    steps: int
    flops: int | None = None
    bytes: int | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    basis: str = ""


@dataclass(frozen=True)
class Fanout:
    id: str
    name: str
    phase: str  # pending, active, terminal
    created_at: datetime
    counts: dict[str, int] = field(default_factory=dict)  # status -> jobs
    jobs: int = 0
    styles: int = 0
    train: str | None = None
    cancelled_at: datetime | None = None


@dataclass(frozen=True)
class Trial:
    """A set of settings that a sweep tries."""

    number: int
    params: dict[str, Any]
    status: str  # of its job, or waiting, stopped
    job: str
    reason: str | None = None
    rung: int = 0
    step: int = 0
    total_steps: int = 0
    value: float | None = None
    values: list[float | None] = field(default_factory=list)
    model: str | None = None


@dataclass(frozen=True)
class Sweep:
    id: str
    name: str
    phase: str  # pending, active, terminal
    created_at: datetime
    strategy: str = "random"
    metric: str | None = None
    mode: str = "min"
    space: dict[str, Any] = field(default_factory=dict)
    rungs: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # status -> jobs
    jobs: int = 0
    best: Trial | None = None
    trials: list[Trial] = field(default_factory=list)
    cancelled_at: datetime | None = None


@dataclass(frozen=True)
class Figures:
    """One model of a comparison: means over all pairs of a content and a style."""

    content_loss: float
    style_loss: float
    seconds: float
    mpx_per_s: float
    parameters: float
    peak_mib: float | None = None


@dataclass(frozen=True)
class Contestant:
    """A model that takes part in a comparison."""

    name: str
    model: str
    method: str
    note: str = ""
    figures: Figures | None = None  # None until it has drawn


@dataclass(frozen=True)
class Comparison:
    id: str
    name: str
    status: str
    phase: str  # pending, active, terminal
    created_at: datetime
    progress: Progress
    models: list[Contestant] = field(default_factory=list)
    sheet: str | None = None  # url of all pictures on one page
    error: JobError | None = None


@dataclass(frozen=True)
class BatchItem:
    """What happened, or would, to one of many jobs."""

    id: str
    outcome: str  # changed, unchanged, refused, not_found
    name: str | None = None
    before: str | None = None
    after: str | None = None
    detail: str | None = None
    retried_as: str | None = None


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
    workers: int = 1
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
    class_counts: dict[str, int] | None = None  # pictures of each class
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
    scopes: list[str] = field(default_factory=list)  # read, submit, write, stylize, manage, admin
    expires_at: datetime | None = None
    last_used_at: datetime | None = None  # to some minutes
    previous_until: datetime | None = None  # until then the secret before the last rotation counts too
    revoked_at: datetime | None = None
    key: str | None = None  # the whole of it, in the answer that made it and never again


@dataclass(frozen=True)
class Held:
    held: int
    limit: int | None = None  # None: as much as there is


@dataclass(frozen=True)
class Quota:
    """What a tenant may have of the cluster, and has."""

    tenant: str
    weight: float
    cpus: Held
    gpus: Held
    waiting: Held  # jobs
    classes: list[str] = field(default_factory=list)  # of priority
    share: float = 0.0  # of the cluster, now and lately, over the weight


@dataclass(frozen=True)
class Tenant:
    id: str
    name: str
    created_at: datetime
    weight: float = 1.0
    max_cpus: int | None = None  # None: no limit, as below
    max_gpus: int | None = None
    max_queued: int | None = None
    classes: list[str] | None = None  # of priority, besides standard; None: all
    max_bytes: int | None = None


@dataclass(frozen=True)
class TaskInfo:
    """A task of a method: what it can be told and what it needs."""

    config: dict[str, Any]  # JSON Schema with defaults
    datasets: dict[str, str] = field(default_factory=dict)  # role -> images | labelled
    min_classes: int = 2  # that a labelled dataset must have
    min_per_class: int = 1  # pictures that each of its classes must have
    base_model: str | None = None  # "method/task"
    base_model_required: bool = False
    style_image: bool = False
    controls: dict[str, Any] = field(default_factory=dict)  # JSON Schema of what a finished model can be told
    draws: bool = True  # false: a finished model makes no pictures
    styles: tuple[int, int] = (0, 0)  # fewest and most style pictures of a stylisation
    masks: bool = False  # a mask for each style
    regions: bool = False  # label maps of content and style
    init_image: bool = False  # a picture to start from
    trains: bool = True  # false: there is nothing to learn, so no job
    shared_out: str | None = None  # the setting whose number workers divide; None: one worker only


@dataclass(frozen=True)
class Method:
    method: str
    title: str
    paper: str
    tasks: dict[str, TaskInfo]
