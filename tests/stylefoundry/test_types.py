"""Answers become types, and go back to the JSON that they were."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stylefoundry.errors import ApiError, Error
from stylefoundry.reading import read, to_json
from stylefoundry.types import Job

JOB: dict[str, Any] = {
    "id": "job_1",
    "method": "metastyle",
    "task": "adapt",
    "name": "starry",
    "status": "failed",
    "phase": "terminal",
    "attempt": 2,
    "progress": {"step": 7, "total_steps": 10, "images_per_second": None, "eta_s": 1.5},
    "created_at": "2026-11-24T09:00:00.250Z",
    "datasets": {"content": "photos@2"},
    "waiting": None,
    "error": {"type": "diverged", "message": "style_loss is nan", "attempt": 2},
}


def test_nested_objects_and_instants_are_read():
    job = read(Job, JOB)
    assert job.progress.eta_s == 1.5
    assert job.error is not None
    assert job.error.message == "style_loss is nan"
    assert job.created_at == datetime(2026, 11, 24, 9, 0, 0, 250_000, tzinfo=UTC)
    assert job.waiting is None


def test_fields_that_this_version_does_not_know_are_left_out():
    newer = JOB | {"colour": "blue", "progress": JOB["progress"] | {"epoch": 3}}
    assert read(Job, newer) == read(Job, JOB)


def test_fields_that_an_older_service_does_not_send_take_their_defaults():
    older = {name: value for name, value in JOB.items() if name not in ("datasets", "error")}
    assert read(Job, older).datasets == {}
    assert read(Job, older).error is None


def test_an_answer_that_is_something_else_is_an_error_and_no_crash():
    with pytest.raises(Error, match="not a Job"):
        read(Job, {"detail": "a proxy's page"})


def test_to_json_gives_back_what_was_read():
    assert to_json(read(Job, JOB)).items() >= {**JOB, "created_at": "2026-11-24T09:00:00.250000Z"}.items()


def test_a_problem_document_keeps_its_fields():
    document = {
        "title": "Invalid input",
        "detail": "/config/lr: 0 was given",
        "errors": [{"pointer": "/config/lr", "detail": "0 was given"}],
    }
    error = ApiError.of(422, document, None)
    assert (error.status, error.title, str(error)) == (422, "Invalid input", "/config/lr: 0 was given")
    assert error.errors[0].pointer == "/config/lr"


def test_a_page_of_a_gateway_is_an_error_with_its_status():
    assert str(ApiError.of(502, "<html>", 2.0)) == "HTTP 502"
