"""Traces by OpenTelemetry: from the POST of a job to its first step, over three processes.

A job's id is a ULID: 128 bits, as long as a trace id. So a job's trace id *is* its id, and the id of its first span is
the lower half of it: everybody who knows the job continues its trace, and no column or header carries one along.

Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set and the extra `traces` is installed; exporter
and sampler go by OpenTelemetry's own variables.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context
from ulid import ULID

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_root: ContextVar[int | None] = ContextVar("root", default=None)  # of the job whose first span is being made


def configure(part: str) -> bool:
    """Send spans of this process, called `stylefoundry-{part}`; False where no endpoint is set.

    Raises ImportError when one is set and the extra `traces` is missing.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    # Without an endpoint none of this is needed or installed.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"stylefoundry-{part}"})
    provider = TracerProvider(resource=resource, id_generator=cast(Any, Ids()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def first(name: str, job_id: str, *, began_ns: int, **attributes: str | int) -> None:
    """The first span of a job's trace, from `began_ns` (since 1970) until now."""
    token = _root.set(_number(job_id))
    try:
        _tracer().start_span(name, _nowhere(), start_time=began_ns, attributes={"job": job_id, **attributes}).end()
    finally:
        _root.reset(token)


def note(name: str, job_id: str, *, began_ns: int, **attributes: str | int) -> None:
    """A span of a job that ends now."""
    _start(name, job_id, attributes, began_ns).end()


@contextmanager
def span(name: str, job_id: str, **attributes: str | int) -> Iterator[Span]:
    """A span of a job for as long as the block lasts."""
    with trace.use_span(_start(name, job_id, attributes, None), end_on_exit=True) as begun:
        yield begun


def flush() -> None:
    """Send what waits: a worker may be ended at any moment after its attempt."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(5000)


def made_ns(job_id: str) -> int:
    """When a job's id was made, nanoseconds since 1970."""
    return (_number(job_id) >> 80) * 1_000_000


def now_ns() -> int:
    return time.time_ns()


def trace_id(job_id: str) -> str:
    """The trace of a job as 32 hexadecimal digits, as trace viewers take it."""
    return f"{_number(job_id):032x}"


class Ids:
    """Random ids, but for the first span of a job. What the SDK calls an IdGenerator; it may not be installed."""

    def generate_trace_id(self) -> int:
        return _root.get() or int.from_bytes(os.urandom(16), "big") or 1

    def generate_span_id(self) -> int:
        root = _root.get()
        return _first_span(root) if root is not None else int.from_bytes(os.urandom(8), "big") or 1

    def is_trace_id_random(self) -> bool:
        return False  # the first 48 bits of a job's are its time


def _start(name: str, job_id: str, attributes: dict[str, str | int], began_ns: int | None) -> Span:
    number = _number(job_id)
    parent = SpanContext(number, _first_span(number), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    context = set_span_in_context(NonRecordingSpan(parent))
    return _tracer().start_span(name, context, start_time=began_ns, attributes={"job": job_id, **attributes})


def _nowhere() -> Any:
    return set_span_in_context(trace.INVALID_SPAN)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("stylefoundry")


def _number(job_id: str) -> int:
    return int(ULID.from_str(job_id.rpartition("_")[2]))


def _first_span(number: int) -> int:
    return number & 0xFFFFFFFFFFFFFFFF or 1
