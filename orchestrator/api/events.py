"""A job's history as a list, or as a stream that goes on by itself.

Streams read rows from SQL; Redis only says that there are some. Ids are gapless per job, so `Last-Event-ID` goes on
without a gap or a repeat, on any replica.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import Field, TypeAdapter

from orchestrator.api.auth import Reader
from orchestrator.api.history import signed_files
from orchestrator.api.job_views import ErrorView
from orchestrator.api.jobs import find
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import Instant, SignedFile, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.objects import Objects
from orchestrator.states import Phase, phase_of
from orchestrator.store import events
from orchestrator.store.keys import Caller
from orchestrator.store.tables import Event

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"])

MAX_ID = 2**63 - 1
AT_ONCE = 500  # rows read for a stream in one query
KEEP_ALIVE_S = 15.0
RETRY_MS = 1000  # how long a browser waits before it comes back
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventHead(View):
    id: int = Field(description="1, 2, … per job")
    at: Instant
    attempt: int


class StatusEvent(EventHead):
    event: Literal["status"]
    status: str
    phase: str
    reason: str
    resumed_from: int | None = Field(None, description="at the start of an attempt: the step that it goes on from")
    error: ErrorView | None = None
    model: str | None = None


class MetricEvent(EventHead):
    event: Literal["metric"]
    points: dict[str, list[tuple[int, float]]]  # name -> (step, value)


class LogLine(View):
    at: Instant
    level: str
    text: str


class LogEvent(EventHead):
    event: Literal["log"]
    lines: list[LogLine]


class CheckpointEvent(EventHead):
    event: Literal["checkpoint"]
    step: int
    status: str
    bytes: int
    files: list[SignedFile]


class SampleEvent(EventHead):
    event: Literal["sample"]
    step: int
    name: str
    width: int
    height: int
    url: str


EventView = Annotated[
    StatusEvent | MetricEvent | LogEvent | CheckpointEvent | SampleEvent, Field(discriminator="event")
]
_adapter: TypeAdapter[EventView] = TypeAdapter(EventView)


class Read(NamedTuple):
    """What a stream found."""

    events: list[Event]
    over: bool  # the job has ended, and the last of these events is its last


@router.get(
    "/events",
    response_model=Listing[EventView],
    responses={
        **problems(404),
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "a list, or a stream"},
    },
)
async def get_events(
    id: str,
    caller: Reader,
    services: Here,
    request: Request,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="id of the last event seen")] = 0,
    limit: Limit = 50,
    cursor: Cursor = None,
    last_event_id: Annotated[int, Header(ge=0, le=MAX_ID, description="of a stream; the same as `after`")] = 0,
) -> Any:
    """The history of a job: a list, or with `Accept: text/event-stream` everything from there on as it happens.

    After the last event of a job that has ended comes `event: end`, without id, and the stream closes.
    """
    await run_in_threadpool(_check, services, caller, id)
    if "text/event-stream" in request.headers.get("accept", ""):
        return _stream_response(services, caller, id, max(after, last_event_id))
    (after,) = where(cursor, int) or (after,)
    found = await run_in_threadpool(_after, services, id, after, limit + 1)
    page = cut(found, limit, lambda event: [event.id])
    return Listing(data=[event_view(event, services.objects) for event in page.rows], next_cursor=page.next_cursor)


def event_view(event: Event, objects: Objects) -> EventView:
    """The flat object of an event, urls signed now."""
    flat = event.body | {"id": event.id, "event": event.event, "at": event.at, "attempt": event.attempt}
    if event.event == "checkpoint":
        flat["files"] = signed_files(event.body["files"], event.body["prefix"], objects)
    elif event.event == "sample":
        flat["url"] = objects.presigned_get(event.body["key"])
    return _adapter.validate_python(flat)


def _check(services: Services, caller: Caller, job_id: str) -> None:
    with services.db.read() as tx:
        find(tx, caller.tenant, job_id)


def _after(services: Services, job_id: str, last_id: int, limit: int) -> list[Event]:
    with services.db.read() as tx:
        return events.after(tx, job_id, last_id, limit=limit)


def _read(services: Services, tenant: str, job_id: str, last_id: int) -> Read:
    with services.db.read() as tx:
        found = events.after(tx, job_id, last_id, limit=AT_ONCE)
        job = find(tx, tenant, job_id)
    newest = found[-1].id if found else last_id
    return Read(found, phase_of(job.status) is Phase.TERMINAL and newest >= job.events)


def _stream_response(services: Services, caller: Caller, job_id: str, last_id: int) -> Response:
    return EventSourceResponse(_stream(services, caller.tenant, job_id, last_id), headers=STREAM_HEADERS)


async def _stream(services: Services, tenant: str, job_id: str, last_id: int) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RETRY_MS)
    said_at = time.monotonic()
    async with services.news.subscription(job_id) as subscription:
        while not services.news.closed:
            read = await run_in_threadpool(_read, services, tenant, job_id, last_id)
            for event in read.events:
                data = event_view(event, services.objects).model_dump_json()
                yield format_sse_event(data_str=data, event=event.event, id=str(event.id))
                last_id, said_at = event.id, time.monotonic()
            if read.over:
                yield format_sse_event(data_str="{}", event="end")
                return
            if len(read.events) < AT_ONCE:
                await subscription.wait(at_most_s=KEEP_ALIVE_S)
            if time.monotonic() - said_at > KEEP_ALIVE_S:
                yield KEEPALIVE_COMMENT
                said_at = time.monotonic()
