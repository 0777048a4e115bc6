"""What a job has left behind: curves, log lines, checkpoints, pictures, attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from orchestrator.api.auth import Reader
from orchestrator.api.job_views import ErrorView
from orchestrator.api.jobs import Several, find
from orchestrator.api.paging import Cursor, Limit, Listing, Slice, cut, where, written
from orchestrator.api.schemas import Instant, SignedFile, View, problems
from orchestrator.api.services import Here
from orchestrator.objects import Objects
from orchestrator.store import events, jobs, metrics
from orchestrator.store.tables import Event

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"])

MAX_POINTS = 1000
MAX_STEP = 2**63 - 1


class SeriesView(View):
    name: str
    points: list[tuple[int, float]]  # (step, value) in order of steps


class MetricsView(View):
    data: list[SeriesView]


class LogLineView(View):
    at: Instant
    attempt: int
    level: str
    text: str


class CheckpointView(View):
    step: int
    attempt: int
    status: str  # ready | damaged
    bytes: int
    files: list[SignedFile]


class SampleView(View):
    step: int
    attempt: int
    name: str
    width: int
    height: int
    url: str


class AttemptView(View):
    attempt: int
    outcome: str | None  # null while it goes on
    workers: int
    node: str | None
    pid: int | None
    resumed_from: int | None
    started_at: Instant | None
    finished_at: Instant | None
    error: ErrorView | None


@router.get("/metrics", responses=problems(404))
def get_metrics(
    id: str,
    caller: Reader,
    services: Here,
    name: Annotated[Several, Query(description="one or more; all where nothing is said")] = [],  # noqa: B006
    from_step: Annotated[int, Query(ge=0, le=MAX_STEP)] = 0,
    max_points: Annotated[int, Query(ge=4, le=100_000, description="of each curve")] = MAX_POINTS,
) -> MetricsView:
    """Curves in order of steps; only longer ones are thinned out, and keep their lowest and highest points."""
    with services.db.read() as tx:
        find(tx, caller.tenant, id)
        found = metrics.curves(tx, id, names=name, from_step=from_step, max_points=max_points)
    return MetricsView(data=[SeriesView(name=name, points=points) for name, points in found.items()])


@router.get("/logs", responses=problems(404))
def get_logs(id: str, caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[LogLineView]:
    """Log lines of all attempts, oldest first."""
    event_id, line = where(cursor, int, int) or (1, 0)  # where the page begins
    with services.db.read() as tx:
        find(tx, caller.tenant, id)
        found = events.log_lines(tx, id, event_id - 1, limit=limit + 1)
    page = log_page(found, event_id, line, limit)
    return Listing(data=page.rows, next_cursor=page.next_cursor)


def log_page(found: Sequence[Event], event_id: int, line: int, limit: int) -> Slice:
    """`limit` lines of these `log` events, from line `line` of event `event_id` on."""
    lines = [
        (event, n, line_body)
        for event in found
        for n, line_body in enumerate(event.body["lines"])
        if (event.id, n) >= (event_id, line)
    ]
    rows = [
        LogLineView(at=body["at"], attempt=event.attempt, level=body["level"], text=body["text"])
        for event, _, body in lines[:limit]
    ]
    return Slice(rows, written([lines[limit][0].id, lines[limit][1]]) if len(lines) > limit else None)


@router.get("/checkpoints", responses=problems(404))
def get_checkpoints(
    id: str, caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[CheckpointView]:
    """The checkpoints that are kept, in order of steps."""
    step, attempt = where(cursor, int, int) or (-1, -1)
    with services.db.read() as tx:
        find(tx, caller.tenant, id)
        found = jobs.checkpoints(tx, id, after=(step, attempt), limit=limit + 1)
    page = cut(found, limit, lambda checkpoint: [checkpoint.step, checkpoint.attempt])
    data = [
        CheckpointView(
            step=c.step,
            attempt=c.attempt,
            status=c.status,
            bytes=c.bytes,
            files=signed_files(c.files, c.prefix, services.objects),
        )
        for c in page.rows
    ]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/samples", responses=problems(404))
def get_samples(
    id: str, caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[SampleView]:
    """Preview pictures in order of steps and names."""
    step, name = where(cursor, int, str) or (-1, "")
    with services.db.read() as tx:
        find(tx, caller.tenant, id)
        found = jobs.samples(tx, id, after=(step, name), limit=limit + 1)
    page = cut(found, limit, lambda sample: [sample.step, sample.name])
    data = [
        SampleView(
            step=s.step,
            attempt=s.attempt,
            name=s.name,
            width=s.width,
            height=s.height,
            url=services.objects.presigned_get(s.key),
        )
        for s in page.rows
    ]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/attempts", responses=problems(404))
def get_attempts(
    id: str, caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[AttemptView]:
    """Every attempt, in order."""
    (after,) = where(cursor, int) or (0,)
    with services.db.read() as tx:
        find(tx, caller.tenant, id)
        found = jobs.attempts(tx, id, after=after, limit=limit + 1)
    page = cut(found, limit, lambda attempt: [attempt.attempt])
    return Listing(data=[AttemptView.model_validate(a) for a in page.rows], next_cursor=page.next_cursor)


def signed_files(files: Sequence[dict[str, Any]], prefix: str, objects: Objects) -> list[SignedFile]:
    return [
        SignedFile(
            path=file["path"],
            size=file["size"],
            sha256=file["sha256"],
            url=objects.presigned_get(f"{prefix}/{file['path']}"),
        )
        for file in files
    ]
