"""Jobs: submitted, listed, looked at, stopped, done again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from orchestrator.api.auth import Caller
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.job_views import JobCreate, JobView, Retry, view
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Text, problems
from orchestrator.api.services import Here
from orchestrator.api.submission import new_job, retried_job
from orchestrator.ids import new_id
from orchestrator.problems import NotFound, WrongState, invalid_field
from orchestrator.states import GRANTED, Move, Status
from orchestrator.store import jobs, queue
from orchestrator.store.jobs import Cluster, Filter
from orchestrator.store.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Several = Annotated[list[Text], Query()]


@router.post("", status_code=201, responses=problems(*WRITES))
def submit(body: JobCreate, caller: Caller, services: Here, response: Response, key: IdempotencyKey = None) -> JobView:
    """Queue a training or adaptation job.

    References are pinned and the config is completed; the answer shows both. Once it is given the job cannot be lost.
    The same `Idempotency-Key` and body get the same job again.
    """
    job_id = new_id("job")
    with services.db.write() as tx:  # committed when the block ends, so before the 201 leaves
        made = made_before(tx, caller.tenant, key, status=201, resource=job_id)
        cluster = jobs.cluster(tx)
        if made is None:
            job = jobs.submit(tx, new_job(tx, job_id, caller.tenant, body, services.catalogue, cluster))
        else:
            job = find(tx, caller.tenant, made)
        answer = _view(tx, job, cluster)
    services.bus.wake()
    response.headers["Location"] = f"/v1/jobs/{answer.id}"
    return answer


@router.get("", responses=problems())
def list_jobs(
    caller: Caller,
    services: Here,
    status: Annotated[Several, Query(description="one or more, also with commas between them")] = [],  # noqa: B006
    method: Annotated[Text | None, Query()] = None,
    tag: Annotated[Several, Query(description="key:value; all of them must hold")] = [],  # noqa: B006
    q: Annotated[Text | None, Query(description="part of the name")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[JobView]:
    """Jobs, newest first."""
    filter = Filter(status=_statuses(status), method=method, tags=[_tag(text) for text in tag], name_contains=q)
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = jobs.page(tx, caller.tenant, filter, before=place, limit=limit + 1)
        page = cut(found, limit, lambda job: [job.id])
        data = [view(shown) for shown in jobs.shown(tx, page.rows)]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{id}", responses=problems(404))
def get_job(id: str, caller: Caller, services: Here) -> JobView:
    """One job."""
    with services.db.read() as tx:
        return _view(tx, find(tx, caller.tenant, id))


@router.post("/{id}/cancel", responses=problems(403, 404, 409))
def cancel(id: str, caller: Caller, services: Here) -> JobView:
    """Stop for good. At once where no worker is at work, else as soon as the worker has heard of it."""
    return _wish(services, caller, id, Move.CANCEL)


@router.post("/{id}/pause", responses=problems(403, 404, 409))
def pause(id: str, caller: Caller, services: Here) -> JobView:
    """Stop with a checkpoint of the last step, until `resume`."""
    return _wish(services, caller, id, Move.PAUSE)


@router.post("/{id}/resume", responses=problems(403, 404, 409))
def resume(id: str, caller: Caller, services: Here) -> JobView:
    """Let a paused job go on."""
    return _wish(services, caller, id, Move.RESUME)


@router.post("/{id}/retry", status_code=201, responses=problems(404, 409, *WRITES))
def retry(
    id: str,
    caller: Caller,
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
            job = jobs.submit(tx, retried_job(tx, job_id, parent, body or Retry.model_validate({}), services.catalogue))
        else:
            job = find(tx, caller.tenant, made)
        answer = _view(tx, job)
    services.bus.wake()
    response.headers["Location"] = f"/v1/jobs/{answer.id}"
    return answer


def find(tx: Session, tenant: str, job_id: str) -> Job:
    """Raises NotFound, also for another tenant's."""
    job = jobs.find(tx, tenant, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}")
    return job


def _wish(services: Here, caller: Caller, job_id: str, move: Move) -> JobView:
    """Grant a user's wish; one that is so already changes nothing."""
    with services.db.write() as tx:
        job = find(tx, caller.tenant, job_id)
        if queue.move(tx, job.id, move) is None:
            tx.refresh(job)
            if job.status not in GRANTED[move]:
                raise WrongState(f"{job.id} is {job.status}: {move.name.lower()} makes no sense now")
        tx.refresh(job)
        answer = _view(tx, job)
    services.bus.tell(job_id)
    services.bus.wake()
    return answer


def _view(tx: Session, job: Job, cluster: Cluster | None = None) -> JobView:
    return view(jobs.shown(tx, [job], cluster)[0])


def _statuses(given: list[str]) -> list[str]:
    wanted = [word for text in given for word in text.split(",")]
    for word in wanted:
        if word not in list(Status):
            raise invalid_field("/query/status", f"{word!r} is no status; there are {', '.join(Status)}")
    return wanted


def _tag(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise invalid_field("/query/tag", f"{text!r} was given, write key:value")
    return key, value
