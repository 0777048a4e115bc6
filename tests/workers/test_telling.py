"""What an attempt tells besides its rows: log lines that name it, figures, spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import meters, traces
from orchestrator.store.queue import Ticket
from tests.servers import S3Server
from tests.waiting import wait_until
from tests.workers.bench import TRAIN, Bench


@pytest.fixture
def lines() -> Iterator[list[structlog.typing.EventDict]]:
    """Every line with its context, of whatever thread."""
    told: list[structlog.typing.EventDict] = []

    def keep(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        told.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield told
    structlog.configure(processors=before)


def test_an_attempt_is_in_its_jobs_trace_and_in_the_figures(stocked: Bench, spans: InMemorySpanExporter):
    meters.tally.take()
    before = stocked.platform.bus.totals()
    assert before is not None
    job = stocked.finished("metastyle/train", config=TRAIN)
    names = {span.name: span for span in spans.get_finished_spans() if span.attributes["job"] == job.id}  # type: ignore[index]
    assert names.keys() == {"first step", "attempt"}
    assert {f"{span.context.trace_id:032x}" for span in names.values()} == {traces.trace_id(job.id)}
    first, attempt = names["first step"], names["attempt"]
    assert attempt.start_time <= first.start_time <= first.end_time <= attempt.end_time  # type: ignore[operator]
    after = stocked.platform.bus.totals()
    assert after is not None
    assert after.counts["steps"] - before.counts.get("steps", 0) == TRAIN["steps"]
    assert after.counts["checkpoints_uploaded"] > before.counts.get("checkpoints_uploaded", 0)
    assert after.uploads == 0


def test_every_line_names_the_attempt_whatever_thread_it_comes_from(
    stocked: Bench, s3_server: S3Server, lines: list[structlog.typing.EventDict]
):
    settings = stocked.platform.settings.model_copy(update={"renew_s": 0.05})
    stocked.platform = replace(stocked.platform, settings=settings)
    job_id = stocked.submit("metastyle/train", config=TRAIN | {"steps": 40})
    ticket: Ticket = stocked.claim()
    at_work = threading.Thread(target=stocked.run, args=(ticket,))
    at_work.start()
    wait_until(lambda: stocked.job(job_id).step >= 2, 60, "it trains")
    s3_server.kill()
    wait_until(lambda: [line for line in lines if line["event"] == "store_away"], 60, "uploads notice")
    s3_server.start()
    at_work.join(120)
    assert stocked.job(job_id).status == "succeeded"
    assert {(line.get("job"), line.get("attempt")) for line in lines} == {(job_id, 1)}
