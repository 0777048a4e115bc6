"""Sweeps: many settings of one job, as one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from orchestrator.api import groups as shared
from orchestrator.api import webhooks
from orchestrator.api.auth import Reader, Submitter
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import check_encoder, check_queue, complete, known_task, new_job
from orchestrator.api.sweep_views import SweepCreate, SweepView, SweepWithTrials, sweep_view
from orchestrator.api.trials import SEED, Plan, plan, settings_of, told_of
from orchestrator.catalogue import Catalogue, TaskInfo
from orchestrator.fanout import LONGEST
from orchestrator.ids import new_id
from orchestrator.problems import Invalid, under
from orchestrator.store import groups, jobs, sweeps
from orchestrator.store.jobs import NewJob
from orchestrator.store.tables import Group

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])

KIND = "sweep"


@router.post("", status_code=201, responses=problems(409, *WRITES))
def submit(
    body: SweepCreate, caller: Submitter, services: Here, response: Response, key: IdempotencyKey = None
) -> SweepWithTrials:
    """Try many settings of one job.

    `grid` and `random` queue all trials at once. `asha` queues the first rung of all, lets the best go on from their
    checkpoints with more steps, and stops the others; a stopped trial keeps its model and checkpoint.
    """
    webhooks.check_target(services.settings, body.job.webhook)
    sweep_id, made_jobs = new_id(KIND), list[NewJob]()
    with services.db.write() as tx:
        made = made_before(tx, caller.tenant, key, status=201, resource=sweep_id)
        if made is None:
            made_jobs += _create(tx, sweep_id, caller.tenant, body, services)
            check_queue(tx, caller.tenant)
        answer = _view(tx, shared.find(tx, caller.tenant, KIND, made or sweep_id))
    services.bus.wake()
    services.estimator.count_later(made_jobs)
    response.headers["Location"] = f"/v1/sweeps/{answer.id}"
    return answer


@router.get("", responses=problems(403))
def list_sweeps(caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[SweepView]:
    """Sweeps, newest first; one sweep alone has its trials too."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        page = cut(groups.page(tx, caller.tenant, KIND, before=place, limit=limit + 1), limit, lambda group: [group.id])
        data = [SweepView(**dict(_view(tx, group))) for group in page.rows]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{id}", responses=problems(403, 404))
def get_sweep(id: str, caller: Reader, services: Here) -> SweepWithTrials:
    """One sweep with its trials."""
    with services.db.read() as tx:
        return _view(tx, shared.find(tx, caller.tenant, KIND, id))


@router.post("/{id}/cancel", responses=problems(403, 404))
def cancel_sweep(id: str, caller: Submitter, services: Here) -> SweepWithTrials:
    """Cancel every job of it that has not ended; no trial goes on."""
    shared.cancel(services, caller.tenant, KIND, id)
    with services.db.read() as tx:
        return _view(tx, shared.find(tx, caller.tenant, KIND, id))


def _create(tx: Session, sweep_id: str, tenant: str, body: SweepCreate, services: Services) -> list[NewJob]:
    catalogue = services.catalogue
    with under("/job"):
        info = known_task(catalogue, body.job.method, body.job.task)
    planned = plan(body, info)
    template = _template(tx, tenant, body, planned, catalogue)
    made = [
        _trial(tx, template, number, params, body, info, catalogue, planned)
        for number, params in enumerate(planned.trials, start=1)
    ]
    made = [services.estimator.estimated(tx, replace(new, group_id=sweep_id)) for new in made]
    spec = {
        **body.model_dump(include={"strategy", "metric", "mode", "space"}),
        "trials": planned.trials,
        "rungs": planned.rungs,
        "reduction": planned.reduction,
    }
    groups.create(tx, sweep_id, tenant, kind=KIND, name=body.name or template.name, spec=spec)
    jobs.submit_many(tx, made)
    return made


def _template(tx: Session, tenant: str, body: SweepCreate, planned: Plan, catalogue: Catalogue) -> NewJob:
    """The first trial with all of its steps: what it refers to is pinned once."""
    first = body.job.model_copy(update={"config": body.job.config | settings_of(planned.trials[0])})
    try:
        return new_job(tx, new_id("job"), tenant, first, catalogue, jobs.cluster(tx))
    except Invalid as problem:
        with under("/job"):
            told = told_of(planned.trials[0], problem)
            if told is problem:
                raise
        raise told from problem


def _trial(
    tx: Session,
    template: NewJob,
    number: int,
    params: Mapping[str, Any],
    body: SweepCreate,
    info: TaskInfo,
    catalogue: Catalogue,
    planned: Plan,
) -> NewJob:
    base = template.base_model
    based = base is not None or template.base_job is not None
    fixed = base["config"] if base is not None else template.config if based else None
    steps = {"steps": planned.rungs[0]} if planned.rungs else {}
    try:
        config = complete(info, {**body.job.config, **settings_of(params), **steps}, fixed)
        if "encoder" in params:
            check_encoder(tx, catalogue, config)
    except Invalid as problem:
        raise told_of(params, problem) from problem
    name = f"{template.publish_as[: LONGEST - 1 - len(str(number))]}-{number}"
    return replace(
        template,
        id=new_id("job"),
        name=name,
        publish_as=name,
        config=config,
        seed=params.get(SEED, template.seed),
        total_steps=info.total_steps(config, based=based),
        trial=number,
        rung=0 if planned.rungs else None,
    )


def _view(tx: Session, group: Group) -> SweepWithTrials:
    return sweep_view(group, shared.views(tx, [group])[0], sweeps.facts(tx, group))
