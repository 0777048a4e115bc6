"""Jobs: submitted, listed, looked at, stopped, done again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from orchestrator.api import webhooks
from orchestrator.api.auth import Reader, Submitter, Writer
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.job_views import JobCreate, JobView, Retry, view
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Text, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import check_queue, new_job, retried_job
from orchestrator.ids import new_id
from orchestrator.problems import NotFound, WrongState, invalid_field
from orchestrator.scheduling.outlook import Outlook
from orchestrator.states import GRANTED, Move, Phase, Status, phase_of
from orchestrator.store import jobs, queue, removal
from orchestrator.store.jobs import Cluster, Filter, NewJob
from orchestrator.store.keys import Caller
from orchestrator.store.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Several = Annotated[list[Text], Query()]


@router.post("", status_code=201, responses=problems(409, *WRITES))
def submit(
    body: JobCreate, caller: Submitter, services: Here, response: Response, key: IdempotencyKey = None
) -> JobView:
    """Queue a training or adaptation job.

    References are pinned and the config is completed; the answer shows both. Once it is given the job cannot be lost.
    The same `Idempotency-Key` and body get the same job again.
    """
    webhooks.check_target(services.settings, body.webhook)
    job_id, news = new_id("job"), list[NewJob]()
    with services.db.write() as tx:  # committed when the block ends, so before the 201 leaves
        made = made_before(tx, caller.tenant, key, status=201, resource=job_id)
        cluster = jobs.cluster(tx)
        if made is None:
            new = new_job(tx, job_id, caller.tenant, body, services.catalogue, cluster)
            news.append(services.estimator.estimated(tx, new))
            job = jobs.submit(tx, news[0])
            check_queue(tx, caller.tenant)
        else:
            job = find(tx, caller.tenant, made)
        told = services.outlook.of(tx, job, services.catalogue.classes) if made is None else None
        answer = _view(tx, job, services, cluster, told)
    services.bus.wake()
    services.estimator.count_later(news)
    response.headers["Location"] = f"/v1/jobs/{answer.id}"
    return answer


@router.get("", responses=problems())
def list_jobs(
    caller: Reader,
    services: Here,
    status: Annotated[Several, Query(description="one or more, also with commas between them")] = [],  # noqa: B006
    method: Annotated[Text | None, Query()] = None,
    tag: Annotated[Several, Query(description="key:value; all of them must hold")] = [],  # noqa: B006
    q: Annotated[Text | None, Query(description="part of the name")] = None,
    fanout: Annotated[Text | None, Query(description="id of a fan-out")] = None,
    sweep: Annotated[Text | None, Query(description="id of a sweep")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[JobView]:
    """Jobs, newest first."""
    filter = Filter(
        status=_statuses(status),
        method=method,
        tags=[_tag(text) for text in tag],
        name_contains=q,
        group=_group(fanout, sweep),
    )
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = jobs.page(tx, caller.tenant, filter, before=place, limit=limit + 1)
        page = cut(found, limit, lambda job: [job.id])
        data = [view(shown) for shown in jobs.shown(tx, page.rows, classes=services.catalogue.classes)]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{id}", responses=problems(404))
def get_job(id: str, caller: Reader, services: Here) -> JobView:
    """One job."""
    with services.db.read() as tx:
        return _view(tx, find(tx, caller.tenant, id), services)


@router.post("/{id}/cancel", responses=problems(404, 409))
def cancel(id: str, caller: Submitter, services: Here) -> JobView:
    """Stop for good. At once where no worker is at work, else as soon as the worker has heard of it."""
    return _wish(services, caller, id, Move.CANCEL)


@router.post("/{id}/pause", responses=problems(404, 409))
def pause(id: str, caller: Submitter, services: Here) -> JobView:
    """Stop with a checkpoint of the last step, until `resume`."""
    return _wish(services, caller, id, Move.PAUSE)


@router.post("/{id}/resume", responses=problems(404, 409))
def resume(id: str, caller: Submitter, services: Here) -> JobView:
    """Let a paused job go on."""
    return _wish(services, caller, id, Move.RESUME)


@router.post("/{id}/retry", status_code=201, responses=problems(404, 409, *WRITES))
def retry(
    id: str,
    caller: Submitter,
    services: Here,
    response: Response,
    body: Retry | None = None,
    key: IdempotencyKey = None,
) -> JobView:
    """Do a job that has ended again: a new job with this one as its `parent`, from its newest checkpoint or the start.

    A changed `config` lengthens or changes it.
    """
    job_id = new_id("job")
    with services.db.write() as tx:
        parent = find(tx, caller.tenant, id)
        made = made_before(tx, caller.tenant, key, status=201, resource=job_id)
        if made is None:
            new = retried_job(tx, job_id, parent, body or Retry.model_validate({}), services.catalogue)
            job = jobs.submit(tx, services.estimator.estimated(tx, new))
            check_queue(tx, caller.tenant)
        else:
            job = find(tx, caller.tenant, made)
        answer = _view(tx, job, services)
    services.bus.wake()
    response.headers["Location"] = f"/v1/jobs/{answer.id}"
    return answer


@router.delete("/{id}", status_code=204, responses=problems(404, 409))
def delete_job(id: str, caller: Writer, services: Here) -> None:
    """Delete a job that has ended, with its history, checkpoints and pictures. Its model has to be deleted before.

    The objects follow within the next days.
    """
    with services.db.write() as tx:
        delete_ended(tx, find(tx, caller.tenant, id))


def find(tx: Session, tenant: str, job_id: str) -> Job:
    """Raises NotFound, also for another tenant's."""
    job = jobs.find(tx, tenant, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}")
    return job


def grant(tx: Session, job: Job, move: Move) -> None:
    """Make a user's move; what is so already stays. Raises WrongState where it makes no sense."""
    if queue.move(tx, job.id, move) is None:
        tx.refresh(job)
        if job.status not in GRANTED[move]:
            raise WrongState(f"{job.id} is {job.status}: {move.name.lower()} makes no sense now")
    tx.refresh(job)


def delete_ended(tx: Session, job: Job) -> None:
    """Raises WrongState for what has not ended, or is needed."""
    if phase_of(job.status) is not Phase.TERMINAL:
        raise WrongState(f"{job.id} is {job.status}: cancel it first")
    if reason := removal.delete_job(tx, job):
        raise WrongState(f"{job.id} stays: {reason}")


def _wish(services: Here, caller: Caller, job_id: str, move: Move) -> JobView:
    """Grant a user's wish; one that is so already changes nothing."""
    with services.db.write() as tx:
        job = find(tx, caller.tenant, job_id)
        grant(tx, job, move)
        answer = _view(tx, job, services)
    services.bus.tell(job_id)
    services.bus.wake()
    return answer


def _view(
    tx: Session, job: Job, services: Services, cluster: Cluster | None = None, told: Outlook | None = None
) -> JobView:
    return view(jobs.shown(tx, [job], cluster, classes=services.catalogue.classes, told=told)[0])


def _statuses(given: list[str]) -> list[str]:
    wanted = [word for text in given for word in text.split(",")]
    for word in wanted:
        if word not in list(Status):
            raise invalid_field("/query/status", f"{word!r} is no status; there are {', '.join(Status)}")
    return wanted


def _group(fanout: str | None, sweep: str | None) -> str | None:
    if fanout is not None and sweep is not None:
        raise invalid_field("/query/sweep", "is one too many: a job belongs to a fan-out or to a sweep")
    return fanout or sweep


def _tag(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise invalid_field("/query/tag", f"{text!r} was given, write key:value")
    return key, value
