"""Whatever goes wrong becomes a problem document, also what the framework finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from orchestrator.problems import (
    MEDIA_TYPE,
    FieldProblem,
    Internal,
    Invalid,
    NotFound,
    NotJson,
    Problem,
    TooLarge,
    Unavailable,
    WrongMethod,
    invalid_fields,
)
from orchestrator.store.database import is_outage
from orchestrator.telemetry import log

SHOWN = 50  # field errors in one document
FRAMEWORKS: dict[int, type[Problem]] = {kind.status: kind for kind in (NotJson, NotFound, WrongMethod, TooLarge)}
PARAMETERS = ("query", "path", "header", "cookie")


def install(app: FastAPI) -> None:
    """Let `app` answer every error with a problem document."""
    app.add_exception_handler(Problem, lambda request, error: respond(_as_problem(error)))
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(Exception, _internal)


def respond(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def _as_problem(error: Exception) -> Problem:
    assert isinstance(error, Problem)
    return error


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return respond(NotJson(f"the body is not JSON: {found[0].get('ctx', {}).get('error', 'it ends too early')}"))
    return respond(invalid_fields([field_problem(one) for one in found[:SHOWN]]))


def field_problem(error: Mapping[str, Any]) -> FieldProblem:
    """One error of pydantic's."""
    place, *parts = [str(part) for part in error["loc"]]
    if place in PARAMETERS:
        parts = [place, *parts]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return FieldProblem(pointer, _detail(error))


def _detail(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "is not known here"
    if error["type"] == "missing":
        return "is missing"
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    other = Invalid if 400 < error.status_code < 500 else Internal
    kind = FRAMEWORKS.get(error.status_code, other)
    details = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is no method of {request.url.path}",
    }
    detail = details.get(error.status_code, str(error.detail))
    return respond(kind(detail, headers=error.headers))


def _database(request: Request, error: Exception) -> Response:
    if not (isinstance(error, PoolTimeout) or is_outage(error)):
        return _internal(request, error)
    log.warning("database_away", error=str(error).partition("\n")[0])
    return respond(Unavailable("the database does not answer"))


def _internal(request: Request, error: Exception) -> Response:
    log.error("internal_error", method=request.method, path=request.url.path, exc_info=error)
    return respond(Internal("something went wrong here; the log has it under this answer's X-Request-Id"))
