"""A job's trace: from the POST over the dispatcher to the first step on a worker, known by nothing but the job's id."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from ulid import ULID

from orchestrator import traces
from orchestrator.api.traffic import Traffic, TrafficMiddleware
from orchestrator.ids import new_id


@pytest.fixture
def sent(spans: InMemorySpanExporter) -> InMemorySpanExporter:
    spans.clear()
    return spans


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_spans_of_three_processes_are_one_trace(sent: InMemorySpanExporter):
    job_id = new_id("job")
    traces.first("POST /v1/jobs", job_id, began_ns=traces.now_ns(), request="req_1")
    traces.note("queue", job_id, began_ns=traces.made_ns(job_id))
    with traces.span("attempt", job_id, attempt=1):
        pass
    spans = by_name(sent)
    assert {span.context.trace_id for span in spans.values()} == {int(ULID.from_str(job_id.removeprefix("job_")))}
    root = spans["POST /v1/jobs"]
    assert root.parent is None
    for name in ("queue", "attempt"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == root.context.span_id
    assert spans["attempt"].attributes == {"job": job_id, "attempt": 1}
    assert f"{root.context.trace_id:032x}" == traces.trace_id(job_id)


def test_the_time_in_the_queue_begins_when_the_id_was_made(sent: InMemorySpanExporter):
    before = traces.now_ns()
    job_id = new_id("job")
    traces.note("queue", job_id, began_ns=traces.made_ns(job_id))
    (span,) = sent.get_finished_spans()
    assert span.start_time is not None
    assert abs(span.start_time - before) < 2e9  # ids hold milliseconds


def test_a_request_that_makes_a_job_is_the_first_span(sent: InMemorySpanExporter):
    app = FastAPI(telemetry={"tracing": False, "metrics": False})  # as ours: it would make spans of its own
    app.add_middleware(TrafficMiddleware, traffic=Traffic(CollectorRegistry()))
    job_id = new_id("job")

    @app.post("/v1/jobs", status_code=201)
    def submit(response: Response) -> None:
        response.headers["location"] = f"/v1/jobs/{job_id}"

    @app.post("/v1/keys", status_code=201)
    def create_key() -> None:
        return None

    with TestClient(app) as client:
        answer = client.post("/v1/jobs")
        client.post("/v1/keys")
    (span,) = sent.get_finished_spans()
    assert span.name == "POST /v1/jobs"
    assert span.attributes == {"job": job_id, "request": answer.headers["x-request-id"]}
    assert span.parent is None


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
def test_spans_are_sent_only_where_an_endpoint_is_named(endpoint: str):
    program = "from orchestrator import traces; print(traces.configure('api'))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    if endpoint:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == str(bool(endpoint))
