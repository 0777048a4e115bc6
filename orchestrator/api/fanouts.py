"""Fan-outs: train once, then adapt to many styles, in one request."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator.api import groups as shared
from orchestrator.api import webhooks
from orchestrator.api.auth import Reader, Submitter
from orchestrator.api.groups import GroupView
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.job_views import JobCreate
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.pins import STYLE_ROLE, pinned_dataset
from orchestrator.api.schemas import WRITES, FilePath, Given, Name, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import check_queue, known_task, new_job
from orchestrator.catalogue import Catalogue
from orchestrator.fanout import model_names
from orchestrator.ids import new_id
from orchestrator.problems import invalid_field, under
from orchestrator.store import datasets, groups, jobs
from orchestrator.store.jobs import NewJob
from orchestrator.store.tables import Group

router = APIRouter(prefix="/v1/fanouts", tags=["fanouts"])

KIND = "fanout"
MOST_STYLES = 2000
ALL = ["*"]


class FanoutCreate(Given):
    """One job for each style; all of them, and what they start from, are made in one transaction."""

    name: Name | None = Field(None, description="the adaptations' `name` where nothing is said")
    train: JobCreate | None = Field(None, description="trained first: the adaptations start from its model")
    adapt: JobCreate = Field(description="a job without `style_image`; model names are `{publish_as}-{style}`")
    style_images: Annotated[list[FilePath], Field(min_length=1, max_length=MOST_STYLES)] = Field(
        description='paths in the dataset `style`; ["*"]: all of it'
    )


class FanoutView(GroupView):
    train: str | None = Field(description="the job that the adaptations wait for")
    styles: int


@router.post("", status_code=201, responses=problems(409, *WRITES))
def submit(
    body: FanoutCreate, caller: Submitter, services: Here, response: Response, key: IdempotencyKey = None
) -> FanoutView:
    """Queue an adaptation to each of many styles, and first the training that they start from.

    Either all jobs are made or none. `GET /v1/jobs?fanout=…` lists them.
    """
    for part in (body.train, body.adapt):
        webhooks.check_target(services.settings, None if part is None else part.webhook)
    fanout_id, made_jobs = new_id(KIND), list[NewJob]()
    with services.db.write() as tx:
        made = made_before(tx, caller.tenant, key, status=201, resource=fanout_id)
        if made is None:
            made_jobs += _create(tx, fanout_id, caller.tenant, body, services)
        answer = _view(tx, shared.find(tx, caller.tenant, KIND, made or fanout_id))
    services.bus.wake()
    services.estimator.count_later(made_jobs)
    response.headers["Location"] = f"/v1/fanouts/{answer.id}"
    return answer


@router.get("", responses=problems(403))
def list_fanouts(caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[FanoutView]:
    """Fan-outs, newest first."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        page = cut(groups.page(tx, caller.tenant, KIND, before=place, limit=limit + 1), limit, lambda group: [group.id])
        data = [_with_facts(group, view) for group, view in zip(page.rows, shared.views(tx, page.rows), strict=True)]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{id}", responses=problems(403, 404))
def get_fanout(id: str, caller: Reader, services: Here) -> FanoutView:
    """One fan-out, and how far its jobs are."""
    with services.db.read() as tx:
        return _view(tx, shared.find(tx, caller.tenant, KIND, id))


@router.post("/{id}/cancel", responses=problems(403, 404))
def cancel_fanout(id: str, caller: Submitter, services: Here) -> FanoutView:
    """Cancel every job of it that has not ended."""
    shared.cancel(services, caller.tenant, KIND, id)
    with services.db.read() as tx:
        return _view(tx, shared.find(tx, caller.tenant, KIND, id))


def _create(tx: Session, fanout_id: str, tenant: str, body: FanoutCreate, services: Services) -> list[NewJob]:
    catalogue = services.catalogue
    _check_template(body, catalogue)
    cluster = jobs.cluster(tx)
    train: NewJob | None = None
    if body.train is not None:
        with under("/train"):
            train = new_job(tx, new_id("job"), tenant, body.train, catalogue, cluster)
    paths = _styles(tx, tenant, body)
    first = body.adapt.model_copy(
        update={"style_image": next(iter(paths)), "base_job": train.id if train else body.adapt.base_job}
    )
    with under("/adapt"):
        template = new_job(tx, new_id("job"), tenant, first, catalogue, cluster, planned=train)
    template = replace(services.estimator.estimated(tx, template), group_id=fanout_id)
    names = model_names(template.publish_as, list(paths))
    adapted = [
        replace(template, id=new_id("job"), name=name, publish_as=name, style_image={"path": path, "sha256": sha256})
        for name, (path, sha256) in zip(names, paths.items(), strict=True)
    ]
    spec = {"train": train.id if train else None, "styles": len(adapted), "method": template.method}
    groups.create(tx, fanout_id, tenant, kind=KIND, name=body.name or template.name, spec=spec)
    first_job = [replace(services.estimator.estimated(tx, train), group_id=fanout_id)] if train else []
    jobs.submit_many(tx, [*first_job, *adapted])
    check_queue(tx, tenant)
    return [*first_job, *adapted]


def _check_template(body: FanoutCreate, catalogue: Catalogue) -> None:
    with under("/adapt"):
        info = known_task(catalogue, body.adapt.method, body.adapt.task)
    if not info.style_image:
        raise invalid_field("/adapt/task", f"{info.method}/{info.task} does not learn one style, so it has no fan-out")
    if body.adapt.style_image is not None:
        raise invalid_field("/adapt/style_image", "is not for a fan-out: name all of them in style_images")
    if body.train is not None:
        for field in ("base_model", "base_job"):
            if getattr(body.adapt, field) is not None:
                raise invalid_field(f"/adapt/{field}", "is one too many: the adaptations start from what train makes")


def _styles(tx: Session, tenant: str, body: FanoutCreate) -> dict[str, str]:
    """The wanted pictures of the dataset `style`, path -> sha256. Raises Invalid that names the first that is none."""
    reference = body.adapt.datasets.get(STYLE_ROLE)
    if reference is None:
        raise invalid_field(f"/adapt/datasets/{STYLE_ROLE}", "is missing: its pictures are the styles")
    with under("/adapt"):
        pin = pinned_dataset(tx, tenant, STYLE_ROLE, "images", reference)
    there = datasets.pictures(tx, tenant, pin.name, pin.version)
    wanted = sorted(there) if body.style_images == ALL else list(dict.fromkeys(body.style_images))
    for place, path in enumerate(wanted):
        if path not in there:
            raise invalid_field(f"/style_images/{place}", f"{pin.name}@{pin.version} has no usable picture {path}")
    if not 0 < len(wanted) <= MOST_STYLES:
        detail = f"{pin.name}@{pin.version} has {len(wanted)} pictures, a fan-out takes 1 to {MOST_STYLES}"
        raise invalid_field("/style_images", detail)
    return {path: there[path] for path in wanted}


def _view(tx: Session, group: Group) -> FanoutView:
    return _with_facts(group, shared.views(tx, [group])[0])


def _with_facts(group: Group, counted: GroupView) -> FanoutView:
    return FanoutView(**dict(counted), train=group.spec["train"], styles=group.spec["styles"])
