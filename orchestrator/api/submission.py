"""From what a caller wrote to a job that can run: checked against the catalogue, pinned, complete."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.api import dependencies, pins, webhooks
from orchestrator.api.job_views import JobCreate, ResourcesGiven, Retry
from orchestrator.api.schemas import rfc3339
from orchestrator.api.usage import check_room
from orchestrator.catalogue import Catalogue, InvalidConfig, TaskInfo
from orchestrator.problems import FieldProblem, LimitReached, WrongState, invalid_field, invalid_fields
from orchestrator.scheduling.classes import DEFAULT_CLASS
from orchestrator.states import Phase, phase_of
from orchestrator.store import accounts, models, retries, tenants
from orchestrator.store.jobs import Cluster, NewJob
from orchestrator.store.tables import Job

Config = dict[str, Any]
ALONE: Mapping[str, Any] = {"group_id": None, "trial": None, "rung": None}  # with other settings it is no trial


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


def new_job(
    tx: Session,
    job_id: str,
    tenant: str,
    body: JobCreate,
    catalogue: Catalogue,
    cluster: Cluster,
    *,
    planned: NewJob | None = None,
) -> NewJob:
    """planned: the job that `body.base_job` names, where this transaction is about to make it.

    Raises Invalid with the fields that cannot be used.
    """
    info = known_task(catalogue, body.method, body.task)
    check_class(tx, tenant, body.class_, catalogue.classes)
    if body.deadline is not None and body.deadline <= cluster.now:
        raise invalid_field("/deadline", f"{rfc3339(body.deadline)} has passed already")
    if wrong := pins.roles_problems(info, body.datasets, body.style_image, body.base_model, body.base_job):
        raise invalid_fields(wrong)
    needs = dependencies.needs(tx, tenant, info, body, planned)
    base = needs.base_model
    config = complete(info, body.config, needs.base_config)
    check_encoder(tx, catalogue, config)
    pinned = pins.pinned_datasets(tx, tenant, info, body.datasets)
    webhooks.check_secret(tx, tenant, body.webhook)
    asked = body.resources or ResourcesGiven()
    pins.check_shared_out(info, config, asked.workers)
    resources = pins.resources(cluster, asked.workers, asked.min_workers, asked.cpus_per_worker, asked.gpus_per_worker)
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
        min_workers=resources.min_workers,
        seed=body.seed,
        publish_as=body.publish_as or name,
        tags=body.tags,
        class_=body.class_,
        priority=body.priority,
        deadline=body.deadline,
        max_retries=body.max_retries,
        timeout_s=body.timeout_s,
        keep_checkpoints=body.keep_checkpoints,
        total_steps=info.total_steps(config, based=needs.base_config is not None),
        depends_on=needs.depends_on,
        awaited=needs.awaited,
        base_job=body.base_job,
        webhook=webhooks.kept(body.webhook),
    )


def check_queue(tx: Session, tenant: str) -> None:
    """After jobs were made. Raises LimitReached where more of the tenant's wait now than may, or its store is full."""
    limits = tenants.limits(tx, tenant)
    if limits.max_bytes is not None:
        check_room(tx, tenant)
    if limits.max_queued is not None and (most := accounts.waiting_limit(tx, tenant)) is not None:
        raise LimitReached(f"at most {most} jobs of this tenant may wait at a time: try again when some have started")


def check_class(tx: Session, tenant: str, class_: str, declared: Collection[str]) -> None:
    """Raises Invalid for a class that there is not, or that the tenant may not use."""
    if class_ not in declared:
        raise invalid_field("/class", f"there is no class {class_!r}; there are {', '.join(declared)}")
    if class_ == DEFAULT_CLASS:
        return
    allowed = accounts.classes_of(tx, tenant)
    if not accounts.may_use(class_, allowed):
        there = ", ".join([DEFAULT_CLASS, *(allowed or [])])
        raise invalid_field("/class", f"{class_} is not for this tenant; it may use {there}")


def retried_job(tx: Session, job_id: str, parent: Job, body: Retry, catalogue: Catalogue) -> NewJob:
    """A new job like `parent`, which has ended, with another config where that is asked for.

    Raises WrongState while the job has not ended, Invalid where the checkpoint cannot carry the new config.
    """
    if phase_of(parent.status) is not Phase.TERMINAL:
        raise WrongState(f"{parent.id} is {parent.status}: only a job that has ended can be done again")
    info = known_task(catalogue, parent.method, parent.task)
    pins.check_still_there(tx, parent)
    needs = dependencies.needs_again(tx, parent)
    config = complete(info, parent.config | body.config, needs.base_config)
    check_encoder(tx, catalogue, config)
    pins.check_shared_out(info, config, parent.workers)
    start = None if body.from_ == "start" else retries.start_of_retry(tx, parent)
    if start is None and body.from_ == "checkpoint":
        raise invalid_field("/from", f"{parent.id} has no checkpoint that is ready: say start")
    total_steps = info.total_steps(config, based=needs.base_config is not None)
    if start is not None:
        _check_start(start, parent.config, config, total_steps, catalogue.architecture(parent.method))
    return retries.again(
        parent,
        job_id,
        config=config,
        total_steps=total_steps,
        start_from=start,
        base_model=needs.base_model,
        base_job=needs.base_job,
        depends_on=needs.depends_on,
        awaited=needs.awaited,
        **(ALONE if parent.trial is not None and body.config else {}),
    )


def complete(info: TaskInfo, config: Mapping[str, Any], base_config: Mapping[str, Any] | None) -> Config:
    """Raises Invalid with every bad setting."""
    try:
        return info.complete(config, base_config)
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
