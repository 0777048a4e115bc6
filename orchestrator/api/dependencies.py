"""`depends_on` and `base_job`: what a new job waits for, and the model that it will start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from orchestrator.api import pins
from orchestrator.api.job_views import JobCreate
from orchestrator.catalogue import TaskInfo
from orchestrator.problems import WrongState, invalid_field
from orchestrator.states import Phase, Status, phase_of
from orchestrator.store import dependencies, models, retries
from orchestrator.store.jobs import NewJob
from orchestrator.store.tables import Job


class Needs(NamedTuple):
    """What a job has to wait for and starts from."""

    depends_on: Sequence[str]
    awaited: Sequence[str]  # those that have not succeeded yet
    base_model: Mapping[str, Any] | None  # pinned; None while `base_job` has not published it
    base_config: Mapping[str, Any] | None  # of the base model, also of one that is still to come
    base_job: str | None = None


def needs(tx: Session, tenant: str, info: TaskInfo, body: JobCreate, planned: NewJob | None) -> Needs:
    """planned: the job that `body.base_job` names, where this transaction is about to make it.

    Raises Invalid for a job that there is not, that will never succeed, or whose model is of another task.
    """
    wanted = list(dict.fromkeys([*body.depends_on, *([body.base_job] if body.base_job else [])]))
    made = [job_id for job_id in wanted if planned is None or job_id != planned.id]
    found = dependencies.locked(tx, tenant, made) if made else {}
    for job_id in made:
        _check_hope(_pointer(body, job_id), job_id, found.get(job_id))
    awaited = [job_id for job_id in wanted if job_id not in found or found[job_id].status != Status.SUCCEEDED]
    if body.base_job is None:
        base = pins.pinned_base(tx, tenant, info, body.base_model)
        return Needs(wanted, awaited, base, None if base is None else base["config"])
    parent = planned if planned is not None and body.base_job == planned.id else found[body.base_job]
    if f"{parent.method}/{parent.task}" != info.base_model:
        detail = f"{parent.id} is of {parent.method}/{parent.task}, this task starts from {info.base_model}"
        raise invalid_field("/base_job", detail)
    return Needs(wanted, awaited, _published(tx, parent.id, body.base_job in awaited), parent.config, body.base_job)


def needs_again(tx: Session, parent: Job) -> Needs:
    """What a job waits for that does `parent` again: instead of a job that did not succeed, its newest retry.

    Raises WrongState where one of them will never succeed.
    """
    now: dict[str, Job] = {}
    for job_id in parent.depends_on:
        newest = retries.newest_retry(tx, parent.tenant_id, job_id)
        if newest is None or _is_hopeless(newest):
            how = "was deleted" if newest is None else f"ended as {newest.status}"
            raise WrongState(f"{parent.id} depends on {job_id}, which {how}: do that one again first")
        now[job_id] = newest
    depends_on = list(dict.fromkeys(job.id for job in now.values()))
    awaited = [job.id for job in now.values() if job.status != Status.SUCCEEDED]
    base = parent.base_model
    if parent.base_job is None or base is not None:
        return Needs(depends_on, awaited, base, None if base is None else base["config"], parent.base_job)
    source = now[parent.base_job]
    return Needs(depends_on, awaited, _published(tx, source.id, source.id in awaited), source.config, source.id)


def _published(tx: Session, job_id: str, is_awaited: bool) -> Mapping[str, Any] | None:
    if is_awaited:
        return None
    model = models.of_job(tx, job_id)
    if model is None:
        raise invalid_field("/base_job", f"the model of {job_id} was deleted")
    return models.pin(model)


def _check_hope(pointer: str, job_id: str, job: Job | None) -> None:
    if job is None:
        raise invalid_field(pointer, f"there is no job {job_id!r}")
    if _is_hopeless(job):
        raise invalid_field(pointer, f"{job_id} ended as {job.status}: what depends on it would never run")


def _is_hopeless(job: Job) -> bool:
    return phase_of(job.status) is Phase.TERMINAL and job.status != Status.SUCCEEDED


def _pointer(body: JobCreate, job_id: str) -> str:
    return f"/depends_on/{body.depends_on.index(job_id)}" if job_id in body.depends_on else "/base_job"
