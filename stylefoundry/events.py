"""A job's events as they come, over server-sent events, through every interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from stylefoundry.errors import ApiError, Unreachable
from stylefoundry.reading import read
from stylefoundry.transport import TRY_AGAIN, Transport, segment, waits
from stylefoundry.types import Event


def follow(transport: Transport, job_id: str, after: int, patience_s: float) -> Iterator[Event]:
    """Events with ids above `after`, each once and in order, until the service says that there will be no more.

    A connection that ends or falls silent is opened again with `Last-Event-ID`. Raises ApiError when the service
    refuses (no such job), Unreachable when it cannot be had for `patience_s`.
    """
    last_id = after
    deadline = time.monotonic() + patience_s
    pauses = waits()
    while True:
        try:
            for message in _messages(transport, job_id, last_id):
                if message.event == "end":
                    return
                event = event_of(json.loads(message.data))
                if event.id > last_id:
                    last_id = event.id
                    yield event
                deadline = time.monotonic() + patience_s
                pauses = waits()
            reason = "the stream ended early"  # the service restarts, or a proxy has had enough
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
        except ApiError as error:
            if error.status not in TRY_AGAIN:
                raise
            reason = str(error)
        wait_s = next(pauses)
        if time.monotonic() + wait_s > deadline:
            raise Unreachable(f"no events of {job_id} from {transport.url}: {reason}")
        time.sleep(wait_s)


def _messages(transport: Transport, job_id: str, last_id: int) -> Iterator[httpx2.ServerSentEvent]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_id)}
    with transport.stream(f"/v1/jobs/{segment(job_id)}/events", headers) as response:
        for message in httpx2.EventSource(response):
            if message.data:  # httpx2 also hands out what only sets `retry`
                yield message


def event_of(flat: dict[str, Any]) -> Event:
    """An event from the flat object that the service sends."""
    head = ("id", "event", "at", "attempt")
    return read(Event, flat | {"body": {name: value for name, value in flat.items() if name not in head}})
