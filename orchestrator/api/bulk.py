"""One action on many jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator.api.auth import Submitter
from orchestrator.api.job_views import JobId, Retry, TagValue
from orchestrator.api.paging import cut, where
from orchestrator.api.schemas import WRITES, Given, Name, Text, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import check_queue, retried_job
from orchestrator.ids import new_id
from orchestrator.problems import Problem, invalid_field
from orchestrator.states import GRANTED, TERMINAL, Move, Status, after, sources
from orchestrator.store import jobs, queue, retries
from orchestrator.store.jobs import Filter
from orchestrator.store.tables import Job

router = APIRouter(prefix="/v1", tags=["jobs"])

MOST = 200  # jobs that one request looks at
SLICE = 50  # jobs that one transaction changes
NO_STATUS = ("none",)  # the filter names only what the action cannot change
MOVES = {"cancel": Move.CANCEL, "pause": Move.PAUSE, "resume": Move.RESUME}
StatusName = Annotated[Status, Field(strict=False)]
Outcome = Literal["changed", "unchanged", "refused", "not_found"]


class BatchFilter(Given):
    """Which jobs; all conditions hold together, and there must be one."""

    ids: list[JobId] = Field([], max_length=MOST, description="each of them is answered for, whatever its status")
    status: list[StatusName] = Field([], max_length=len(Status))
    method: Text | None = None
    tags: dict[Name, TagValue] = Field({}, max_length=32)
    q: Text | None = Field(None, description="part of the name")
    fanout: Text | None = None
    sweep: Text | None = None


class Batch(Given):
    """Without `ids` only jobs are looked at that the action can change: for `retry` those that have ended, did not
    succeed (unless `status` says so) and were not done again."""

    action: Literal["cancel", "pause", "resume", "retry"]
    filter: BatchFilter
    dry_run: bool = Field(False, description="say what would happen; nothing does")
    limit: Annotated[int, Field(ge=1, le=MOST)] = MOST
    cursor: str | None = Field(None, max_length=1000, description="`next_cursor` of the answer before")


class BatchItem(View):
    id: str
    name: str | None
    before: str | None = Field(description="status")
    after: str | None = Field(description="status that it has now, or would have")
    outcome: Outcome = Field(description="unchanged: it is so already, or on its way there; refused: `detail` says why")
    detail: str | None
    retried_as: str | None = Field(description="the new job")


class BatchView(View):
    action: str
    dry_run: bool
    data: list[BatchItem]
    next_cursor: str | None = Field(description="send it with the same request for the jobs that are left")


@router.post("/jobs:batch", responses=problems(403, 409, *WRITES))
def batch(body: Batch, caller: Submitter, services: Here) -> BatchView:
    """Cancel, pause, resume or retry the jobs that a filter names, newest first, at most 200 in one request.

    Sent again it changes nothing twice: a job that was done again is left out, or refused where `ids` name it.
    """
    wanted = _filter(body)
    (place,) = where(body.cursor, str) or (None,)
    with services.db.read() as tx:
        found = jobs.page(tx, caller.tenant, wanted, before=place, limit=body.limit + 1)
    page = cut(found, body.limit, lambda job: [job.id])
    ids = [job.id for job in page.rows]
    act = _retry if body.action == "retry" else _move_as(MOVES[body.action])
    data = [item for some in _slices(ids) for item in _done(services, caller.tenant, some, act, body.dry_run)]
    if place is None:
        data += [_missing(job_id) for job_id in body.filter.ids if job_id not in {job.id for job in found}]
    if not body.dry_run:
        services.bus.wake()
    return BatchView(action=body.action, dry_run=body.dry_run, data=data, next_cursor=page.next_cursor)


Act = Callable[[Session, Job, Services, bool], BatchItem]


def _done(services: Services, tenant: str, ids: Sequence[str], act: Act, dry_run: bool) -> list[BatchItem]:
    """One transaction: what happens to these jobs, or would."""
    transaction = services.db.read() if dry_run else services.db.write()
    with transaction as tx:
        found = [jobs.find(tx, tenant, job_id) for job_id in ids]
        items = [act(tx, job, services, dry_run) for job in found if job is not None]
    for item in items:
        if item.outcome == "changed" and not dry_run:
            services.bus.tell(item.retried_as or item.id)
    return items


def _move_as(move: Move) -> Act:
    def act(tx: Session, job: Job, services: Services, dry_run: bool) -> BatchItem:
        target = after(job.status, move)
        if target is not None and not dry_run:
            moved = queue.move(tx, job.id, move)
            target = moved.status if moved is not None else None
        if target is not None:
            return _item(job, "changed", now=target)
        if Status(job.status) in GRANTED[move]:
            return _item(job, "unchanged")
        return _item(job, "refused", detail=f"it is {job.status}: {move.name.lower()} makes no sense now")

    return act


def _retry(tx: Session, job: Job, services: Services, dry_run: bool) -> BatchItem:
    again = retries.retry_of(tx, job.id)
    if again is not None:
        return _item(job, "refused", detail=f"it was done again as {again}")
    try:
        new = retried_job(tx, new_id("job"), job, Retry.model_validate({}), services.catalogue)
    except Problem as problem:
        return _item(job, "refused", detail=problem.detail)
    if dry_run:
        return _item(job, "changed", now=Status.BLOCKED if new.awaited else Status.QUEUED)
    made = jobs.submit(tx, new)
    check_queue(tx, job.tenant_id)
    return _item(job, "changed", now=Status(made.status), retried_as=new.id)


class _Nothing(NamedTuple):
    """A job that there is not."""

    id: str
    name: None = None
    status: None = None


def _item(
    job: Job | _Nothing, outcome: Outcome, *, now: Status | None = None, detail: str | None = None, **more: str
) -> BatchItem:
    return BatchItem(
        id=job.id,
        name=job.name,
        before=job.status,
        after=now.value if now is not None else job.status,
        outcome=outcome,
        detail=detail,
        retried_as=more.get("retried_as"),
    )


def _missing(job_id: str) -> BatchItem:
    return _item(_Nothing(job_id), "not_found", detail="there is no such job, or the other conditions do not hold")


def _filter(body: Batch) -> Filter:
    """The jobs to look at. Raises Invalid for no condition at all, which would be every job."""
    given = body.filter
    if given == BatchFilter.model_validate({}):
        raise invalid_field("/filter", "is empty, which would be all jobs: name at least one condition")
    if given.fanout is not None and given.sweep is not None:
        raise invalid_field("/filter/sweep", "is one too many: a job belongs to a fan-out or to a sweep")
    return Filter(
        ids=given.ids,
        status=_statuses(body) or NO_STATUS,
        method=given.method,
        tags=list(given.tags.items()),
        name_contains=given.q,
        group=given.fanout or given.sweep,
        not_retried=body.action == "retry" and not given.ids,
    )


def _statuses(body: Batch) -> list[str]:
    """What the filter says, as far as the action can change it."""
    given = set(body.filter.status)
    if body.filter.ids:
        return [status.value for status in given or Status]
    if body.action == "retry":
        return [status.value for status in TERMINAL if (status in given if given else status != Status.SUCCEEDED)]
    return [status.value for status in sources(MOVES[body.action]) if not given or status in given]


def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + SLICE] for start in range(0, len(ids), SLICE))
