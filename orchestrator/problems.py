"""What a caller can cause, and how it is told: RFC 9457 problem documents.

Problem
├── NotJson        400  the body cannot be read
├── Unauthorized   401  no key, or one that is unknown, revoked or expired
├── Forbidden      403  the key lacks a scope, or a foreign web page's request
├── NotFound       404  also what belongs to another tenant
├── WrongMethod    405
├── LimitReached   409  the tenant has as much as it may
├── WrongState     409  the thing is not in a state that allows it
├── TooLarge       413
├── Invalid        422  a field, or what it names
├── TooMany        429  faster than the key may ask
└── Unavailable    503  try again after `retry_after_s`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

MEDIA_TYPE = "application/problem+json"


class FieldProblem(NamedTuple):
    """What is wrong with one field."""

    pointer: str  # JSON Pointer into the body: "/config/lr"; of a parameter "/query/limit", "/path/name", "/header/…"
    detail: str


class Problem(Exception):
    """An error to be told to the caller."""

    status: ClassVar[int]
    slug: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self, detail: str, *, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """The problem document."""
        document: dict[str, Any] = {
            "type": f"urn:stylefoundry:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return document

    def body(self) -> bytes:
        """The document's bytes: ASCII, so what a caller sent can always be quoted, lone surrogates too."""
        return json.dumps(self.document()).encode("ascii")


class NotJson(Problem):
    status, slug, title = 400, "not-json", "The body cannot be read"


class Unauthorized(Problem):
    status, slug, title = 401, "unauthorized", "No valid API key"


class Forbidden(Problem):
    status, slug, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    status, slug, title = 404, "not-found", "Not found"


class WrongMethod(Problem):
    status, slug, title = 405, "wrong-method", "Not a method of this resource"


class LimitReached(Problem):
    status, slug, title = 409, "limit-reached", "A limit is reached"


class WrongState(Problem):
    status, slug, title = 409, "wrong-state", "The state does not allow it"


class TooLarge(Problem):
    status, slug, title = 413, "too-large", "The body is too large"


class TooMany(Problem):
    """More requests than a key may send: again after `retry_after_s`."""

    status, slug, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class Invalid(Problem):
    """A field, or what it names, cannot be used."""

    status, slug, title = 422, "invalid", "Invalid input"


class Internal(Problem):
    """Our own mistake; what happened is in the log under the request's id."""

    status, slug, title = 500, "internal", "Internal error"


class Unavailable(Problem):
    """Something that the answer needs is away."""

    status, slug, title = 503, "unavailable", "Not available at the moment"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


ALL = (
    NotJson, Unauthorized, Forbidden, NotFound, WrongMethod, LimitReached, WrongState, TooLarge, Invalid, TooMany,
    Internal, Unavailable,
)  # fmt: skip


def invalid_field(pointer: str, detail: str) -> Invalid:
    """One field is wrong."""
    return invalid_fields([FieldProblem(pointer, detail)])


@contextmanager
def under(pointer: str) -> Iterator[None]:
    """Fields that are wrong inside are told as parts of the field at `pointer`."""
    try:
        yield
    except Invalid as problem:
        raise invalid_fields([FieldProblem(pointer + e.pointer, e.detail) for e in problem.errors]) from problem


def invalid_fields(errors: Sequence[FieldProblem]) -> Invalid:
    """Fields are wrong; the detail is readable without the list."""
    first = f"{errors[0].pointer or 'the body'}: {errors[0].detail}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(first + more, errors=errors)
