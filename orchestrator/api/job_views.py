"""A job as callers write and read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from orchestrator.api.schemas import Deadline, FilePath, Given, Instant, Int64, Name, Reference, Text, View
from orchestrator.api.webhooks import Webhook, WebhookView
from orchestrator.ids import ULID_PATTERN
from orchestrator.scheduling.classes import DEFAULT_CLASS
from orchestrator.states import phase_of
from orchestrator.store.jobs import Shown
from orchestrator.store.tables import Job

MOST_TAGS = 32
TagValue = Annotated[Text, Field(max_length=256)]
MOST_DEPENDENCIES = 100
JobId = Annotated[str, StringConstraints(pattern=f"^job_{ULID_PATTERN}$")]
Config = dict[Text, Any]  # the task's schema decides


class ResourcesGiven(Given):
    """Nothing said: a GPU where the cluster has one, and a core."""

    workers: int = Field(1, ge=1, le=1024, description="that share out every step's pictures")
    min_workers: int | None = Field(
        None, ge=1, le=1024, description="an attempt may start with so few; `workers` where nothing is said"
    )
    cpus_per_worker: int | None = Field(None, ge=1, le=1024)
    gpus_per_worker: int | None = Field(None, ge=0, le=1024)


class JobCreate(Given):
    """What to train, on what, as what."""

    method: Text
    task: Text
    name: Name | None = Field(None, description="{method}-{task} where nothing is said")
    config: Config = Field({}, description="over the defaults of the task's schema, see /v1/methods")
    datasets: dict[Text, Reference] = Field({}, description="role -> name, name@latest or name@3")
    style_image: FilePath | None = Field(None, description="a picture's path in the dataset `style`")
    base_model: Reference | None = Field(None, description="name, name@alias or name@3")
    base_job: JobId | None = Field(None, description="instead: the job that publishes the base model; it is waited for")
    resources: ResourcesGiven | None = None
    seed: Int64 = 0
    publish_as: Name | None = Field(None, description="the model's name; `name` where nothing is said")
    tags: dict[Name, TagValue] = Field({}, max_length=MOST_TAGS)
    class_: Name = Field(DEFAULT_CLASS, alias="class", description="of priority, as the service declares them")
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="within the class higher goes first")
    deadline: Deadline | None = Field(None, description="a job that has not ended by then expires")
    max_retries: int = Field(2, ge=0, le=100)
    timeout_s: float | None = Field(None, gt=0, le=1e9, description="running time over all attempts, seconds")
    keep_checkpoints: int = Field(3, ge=1, le=1000)
    depends_on: list[JobId] = Field([], max_length=MOST_DEPENDENCIES, description="jobs that must succeed before")
    webhook: Webhook | None = Field(
        None, description="a url to be told at the job's end, or with the statuses to be told of"
    )


class Retry(Given):
    """How a job that has ended is done again."""

    from_: Literal["checkpoint", "start"] | None = Field(
        None, alias="from", description="nothing said: the newest checkpoint where there is one"
    )
    config: Config = Field({}, description="over the job's own")


class ResourcesView(View):
    workers: int
    min_workers: int
    cpus_per_worker: int
    gpus_per_worker: int


class WaitingView(View):
    """Why a pending job does not run."""

    reason: str = Field(
        description="queue: its turn comes; room: others hold what it needs; nodes: enough is free in all, but not on "
        "nodes that could each hold a worker; size: the nodes that there are could not hold it even if they were "
        "empty; reservation: what it needs is kept for a job whose turn comes before; quota: its tenant has as much "
        "as it may; cluster: none was seen lately; backoff: it failed a moment ago; dependencies: jobs that it "
        "depends on; paused"
    )
    position: int | None = Field(
        description="1 is next; null when paused, kept by a quota or a dependency, or with 200 or more ahead"
    )
    estimated_start: Instant | None = Field(
        description="if nobody passes it and nobody new comes; null where that depends on jobs of unknown length"
    )


class ProgressView(View):
    step: int
    total_steps: int
    images_per_second: float | None
    eta_s: float | None


class JobEstimate(View):
    """What was expected when the job was submitted, seconds at work."""

    seconds: float
    low: float
    high: float
    basis: str


class ErrorView(View):
    type: str
    message: str
    attempt: int | None = None


class JobView(View):
    id: str
    method: str
    task: str
    name: str
    config: dict[str, Any]  # complete
    datasets: dict[str, str]  # role -> name@version
    style_image: str | None
    base_model: str | None = Field(description="name@version; null until the job that publishes it has succeeded")
    base_job: str | None = Field(description="whose model it starts from, where it was named by its job")
    resources: ResourcesView
    seed: int
    publish_as: str
    tags: dict[str, str]
    class_: str = Field(serialization_alias="class")
    priority: int
    deadline: Instant | None
    preemptions: int = Field(description="how often it made room for a job of a higher class")
    max_retries: int
    timeout_s: float | None
    keep_checkpoints: int
    depends_on: list[str]
    webhook: WebhookView | None
    status: str = Field(description="may grow: go by `phase`")
    phase: Literal["pending", "active", "terminal"]
    attempt: int
    parent: str | None
    fanout: str | None
    sweep: str | None
    trial: int | None = Field(description="of the sweep, from 1")
    rung: int | None = Field(description="of a sweep that stops trials early, from 0")
    waiting: WaitingView | None
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    progress: ProgressView
    estimate: JobEstimate | None
    running_s: float = Field(description="actual time at work, over the attempts that are over")
    error: ErrorView | None
    model: str | None = Field(description="name@version, once published")


def view(shown: Shown) -> JobView:
    job, waiting = shown.job, shown.waiting
    return JobView(
        id=job.id,
        method=job.method,
        task=job.task,
        name=job.name,
        config=job.config,
        datasets={role: _reference(pin) for role, pin in job.datasets.items()},
        style_image=job.style_image["path"] if job.style_image else None,
        base_model=_reference(job.base_model) if job.base_model else None,
        base_job=job.base_job,
        resources=ResourcesView(
            workers=job.workers, min_workers=job.min_workers, cpus_per_worker=job.cpus, gpus_per_worker=job.gpus
        ),
        seed=job.seed,
        publish_as=job.publish_as,
        tags=job.tags,
        class_=job.class_,
        priority=job.priority,
        deadline=job.deadline,
        preemptions=job.preemptions,
        max_retries=job.max_retries,
        timeout_s=job.timeout_s,
        keep_checkpoints=job.keep_checkpoints,
        depends_on=job.depends_on,
        webhook=WebhookView(**job.webhook) if job.webhook else None,
        status=job.status,
        phase=phase_of(job.status).value,
        attempt=job.attempt,
        parent=job.parent,
        fanout=group_of(job, "fanout"),
        sweep=group_of(job, "sweep"),
        trial=job.trial,
        rung=job.rung,
        waiting=WaitingView.model_validate(waiting) if waiting else None,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        progress=_progress(job, shown.eta_s),
        estimate=JobEstimate(**{k: v for k, v in job.estimate.items() if k != "raw_s"}) if job.estimate else None,
        running_s=job.running_s,
        error=ErrorView(**job.error) if job.error else None,
        model=f"{job.publish_as}@{job.model_version}" if job.model_version is not None else None,
    )


def group_of(job: Job, kind: str) -> str | None:
    """The fan-out or sweep that a job belongs to."""
    return job.group_id if job.group_id is not None and job.group_id.startswith(f"{kind}_") else None


def _progress(job: Job, eta_s: float | None) -> ProgressView:
    return ProgressView(
        step=job.step, total_steps=job.total_steps, images_per_second=job.images_per_second, eta_s=eta_s
    )


def _reference(pin: dict[str, Any]) -> str:
    return f"{pin['name']}@{pin['version']}"
