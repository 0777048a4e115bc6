"""From what a caller wrote to a job that can run: checked against the catalogue, pinned, complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.api import pins
from orchestrator.api.job_views import JobCreate, ResourcesGiven, Retry
from orchestrator.catalogue import Catalogue, InvalidConfig, TaskInfo
from orchestrator.problems import FieldProblem, WrongState, invalid_field, invalid_fields
from orchestrator.states import Phase, phase_of
from orchestrator.store import jobs, models
from orchestrator.store.jobs import Cluster, NewJob
from orchestrator.store.tables import Job

Config = dict[str, Any]


def known_task(catalogue: Catalogue, method: str, task: str) -> TaskInfo:
    """Raises Invalid that says what there is."""
    info = catalogue.task(method, task)
    if info is not None and info.trains:
        return info
    if info is not None:
        raise invalid_field(
            "/task", f"{method}/{task} learns nothing, so there is no job of it: stylise with its model"
        )
    if method not in catalogue.methods:
        raise invalid_field("/method", f"there is no method {method!r}; there are {', '.join(catalogue.methods)}")
    there = ", ".join(catalogue.methods[method]["tasks"])
    raise invalid_field("/task", f"{method} has no task {task!r}; it has {there}")


def new_job(tx: Session, job_id: str, tenant: str, body: JobCreate, catalogue: Catalogue, cluster: Cluster) -> NewJob:
    """Raises Invalid with the fields that cannot be used."""
    info = known_task(catalogue, body.method, body.task)
    if wrong := pins.roles_problems(info, body.datasets, body.style_image, body.base_model):
        raise invalid_fields(wrong)
    base = pins.pinned_base(tx, tenant, info, body.base_model)
    config = complete(info, body.config, base)
    check_encoder(tx, catalogue, config)
    pinned = pins.pinned_datasets(tx, tenant, info, body.datasets)
    asked = body.resources or ResourcesGiven()
    resources = pins.resources(cluster, asked.workers, asked.cpus_per_worker, asked.gpus_per_worker)
    name = body.name or f"{body.method}-{body.task}"
    return NewJob(
        job_id,
        tenant,
        method=body.method,
        task=body.task,
        name=name,
        config=config,
        datasets={role: pin.reference() for role, pin in pinned.items()},
        style_image=pins.pinned_style(tx, tenant, body.style_image, pinned),
        base_model=base,
        cpus=resources.cpus,
        gpus=resources.gpus,
        workers=resources.workers,
        min_workers=resources.workers,
        seed=body.seed,
        publish_as=body.publish_as or name,
        tags=body.tags,
        priority=body.priority,
        max_retries=body.max_retries,
        timeout_s=body.timeout_s,
        keep_checkpoints=body.keep_checkpoints,
        total_steps=info.total_steps(config),
    )


def retried_job(tx: Session, job_id: str, parent: Job, body: Retry, catalogue: Catalogue) -> NewJob:
    """A new job like `parent`, which has ended, with another config where that is asked for.

    Raises WrongState while the job has not ended, Invalid where the checkpoint cannot carry the new config.
    """
    if phase_of(parent.status) is not Phase.TERMINAL:
        raise WrongState(f"{parent.id} is {parent.status}: only a job that has ended can be done again")
    info = known_task(catalogue, parent.method, parent.task)
    config = complete(info, parent.config | body.config, parent.base_model)
    check_encoder(tx, catalogue, config)
    start = None if body.from_ == "start" else jobs.start_of_retry(tx, parent)
    if start is None and body.from_ == "checkpoint":
        raise invalid_field("/from", f"{parent.id} has no checkpoint that is ready: say start")
    total_steps = info.total_steps(config)
    if start is not None:
        _check_start(start, parent.config, config, total_steps, catalogue.architecture(parent.method))
    return NewJob(
        job_id,
        parent.tenant_id,
        method=parent.method,
        task=parent.task,
        name=parent.name,
        config=config,
        datasets=parent.datasets,
        style_image=parent.style_image,
        base_model=parent.base_model,
        cpus=parent.cpus,
        gpus=parent.gpus,
        workers=parent.workers,
        min_workers=parent.min_workers,
        seed=parent.seed,
        publish_as=parent.publish_as,
        tags=parent.tags,
        priority=parent.priority,
        max_retries=parent.max_retries,
        timeout_s=parent.timeout_s,
        keep_checkpoints=parent.keep_checkpoints,
        total_steps=total_steps,
        parent=parent.id,
        start_from=start,
    )


def complete(info: TaskInfo, config: Mapping[str, Any], base: Mapping[str, Any] | None) -> Config:
    """Raises Invalid with every bad setting."""
    try:
        return info.complete(config, base["config"] if base is not None else None)
    except InvalidConfig as error:
        raise invalid_fields([FieldProblem(f"/config{e.pointer}", e.detail) for e in error.errors]) from error


def check_encoder(tx: Session, catalogue: Catalogue, config: Config) -> None:
    """Raises Invalid when the encoder's weights cannot be had."""
    encoder = str(config.get("encoder", ""))
    weights = catalogue.weights_of(encoder)
    if weights is not None and not models.has_weights(tx, weights):
        raise invalid_field(
            "/config/encoder",
            f"the weights of {encoder} are not here: `stylefoundry weights add {weights} FILE` adds them, or choose an "
            f"encoder that needs none: {', '.join(catalogue.free_encoders())}",
        )


def _check_start(
    start: Mapping[str, Any], before: Config, after: Config, total_steps: int, architecture: set[str]
) -> None:
    changed = [name for name in after if name in architecture and after[name] != before.get(name)]
    if changed:
        detail = "a checkpoint cannot carry another value: leave it, or say from: start"
        raise invalid_fields(
            [FieldProblem(f"/config/{name}", f"was {before.get(name)!r}; {detail}") for name in changed]
        )
    if total_steps < start["step"]:
        raise invalid_field("/config/steps", f"the checkpoint is of step {start['step']}, beyond {total_steps} steps")
