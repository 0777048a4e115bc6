"""A job as callers write and read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from orchestrator.api.schemas import FilePath, Given, Instant, Int64, Name, Reference, Text, View
from orchestrator.states import phase_of
from orchestrator.store.jobs import Shown
from orchestrator.store.tables import Job

MOST_TAGS = 32
TagValue = Annotated[Text, Field(max_length=256)]
Config = dict[Text, Any]  # the task's schema decides


def _one_worker(workers: int) -> int:
    if workers > 1:
        raise ValueError("not available yet: more than one worker")
    return workers


def _no_dependencies(depends_on: list[Any]) -> list[Any]:
    if depends_on:
        raise ValueError("not available yet: depends_on")
    return depends_on


def _no_webhook(webhook: Any) -> None:
    if webhook is not None:
        raise ValueError("not available yet: webhook")


class ResourcesGiven(Given):
    """Nothing said: a GPU where the cluster has one, and a core."""

    workers: Annotated[int, Field(ge=1, le=1024), AfterValidator(_one_worker)] = 1
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
    resources: ResourcesGiven | None = None
    seed: Int64 = 0
    publish_as: Name | None = Field(None, description="the model's name; `name` where nothing is said")
    tags: dict[Name, TagValue] = Field({}, max_length=MOST_TAGS)
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="higher goes first")
    max_retries: int = Field(2, ge=0, le=100)
    timeout_s: float | None = Field(None, gt=0, le=1e9, description="running time over all attempts, seconds")
    keep_checkpoints: int = Field(3, ge=1, le=1000)
    depends_on: Annotated[list[Any], AfterValidator(_no_dependencies)] = Field([], description="must be empty")
    webhook: Annotated[Any, AfterValidator(_no_webhook)] = Field(None, description="must be null")


class Retry(Given):
    """How a job that has ended is done again."""

    from_: Literal["checkpoint", "start"] | None = Field(
        None, alias="from", description="nothing said: the newest checkpoint where there is one"
    )
    config: Config = Field({}, description="over the job's own")


class ResourcesView(View):
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int


class WaitingView(View):
    """Why a pending job does not run."""

    reason: str = Field(
        description="queue: its turn comes; room: others hold what it needs; cluster: none was seen lately; "
        "backoff: it failed a moment ago; paused"
    )
    position: int | None = Field(description="1 is next; null when paused, or with more than 200 ahead")


class ProgressView(View):
    step: int
    total_steps: int
    images_per_second: float | None
    eta_s: float | None


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
    base_model: str | None  # name@version
    resources: ResourcesView
    seed: int
    publish_as: str
    tags: dict[str, str]
    priority: int
    max_retries: int
    timeout_s: float | None
    keep_checkpoints: int
    depends_on: list[str]
    webhook: str | None
    status: str = Field(description="may grow: go by `phase`")
    phase: Literal["pending", "active", "terminal"]
    attempt: int
    parent: str | None
    waiting: WaitingView | None
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    progress: ProgressView
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
        resources=ResourcesView(workers=job.workers, cpus_per_worker=job.cpus, gpus_per_worker=job.gpus),
        seed=job.seed,
        publish_as=job.publish_as,
        tags=job.tags,
        priority=job.priority,
        max_retries=job.max_retries,
        timeout_s=job.timeout_s,
        keep_checkpoints=job.keep_checkpoints,
        depends_on=[],
        webhook=None,
        status=job.status,
        phase=phase_of(job.status).value,
        attempt=job.attempt,
        parent=job.parent,
        waiting=WaitingView(reason=waiting.reason, position=waiting.position) if waiting else None,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        progress=_progress(job, shown.eta_s),
        error=ErrorView(**job.error) if job.error else None,
        model=f"{job.publish_as}@{job.model_version}" if job.model_version is not None else None,
    )


def _progress(job: Job, eta_s: float | None) -> ProgressView:
    return ProgressView(
        step=job.step, total_steps=job.total_steps, images_per_second=job.images_per_second, eta_s=eta_s
    )


def _reference(pin: dict[str, Any]) -> str:
    return f"{pin['name']}@{pin['version']}"
