"""The pieces that requests and answers are made of."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from orchestrator.problems import ALL, MEDIA_TYPE

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
REFERENCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$"


class Given(BaseModel):
    """What a caller sends: nothing is converted, nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class View(BaseModel):
    """What a caller gets. Later versions may add fields."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


def rfc3339(seconds: float) -> str:
    """An instant, seconds since 1970, as `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _relative(path: str) -> str:
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("a path is relative, with / between its parts, without .., empty parts or backslashes")
    return path


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN)]
Reference = Annotated[str, StringConstraints(pattern=REFERENCE_PATTERN)]  # name, name@latest, name@3
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=1024)]
FilePath = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=1024), AfterValidator(_relative)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Instant = Annotated[
    float, PlainSerializer(rfc3339, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})
]


def _instant(text: object) -> float:
    """Seconds since 1970 of an RFC 3339 time."""
    if not isinstance(text, str) or not RFC3339.fullmatch(text):
        raise ValueError("an instant is written as 2026-01-31T12:00:00Z, with a time zone")
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00")).timestamp()


Deadline = Annotated[
    float, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]  # RFC 3339 in, seconds since 1970 here


class FileFacts(View):
    path: str
    size: int
    sha256: str


class SignedFile(FileFacts):
    url: str = Field(description="presigned `GET`, for as long as the service's setting `presign_s` says")


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON Pointer into the body, or /query/…, /path/…"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
_TITLES = {problem.status: problem.title for problem in ALL}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: these, and what every route with a key can answer."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


WRITES = (400, 413)  # what besides can happen to a request with a body
