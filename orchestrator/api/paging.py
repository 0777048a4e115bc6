"""Lists come in pages: `{"data": […], "next_cursor": "…"|null}` with `?limit=` and `?cursor=`.

A cursor says where the last page ended, in the list's own order, so rows that come or go never shift a page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Query
from pydantic import BaseModel

from orchestrator.problems import invalid_field

MOST = 200
INT64 = range(-(2**63), 2**63)
T = TypeVar("T")
RowT = TypeVar("RowT")

Limit = Annotated[int, Query(ge=1, le=MOST, description="longest page")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before")]


class Listing(BaseModel, Generic[T]):
    data: list[T]
    next_cursor: str | None


class Slice(NamedTuple):
    """The rows of a page, and where the next one begins."""

    rows: list[Any]
    next_cursor: str | None


def cut(rows: Sequence[RowT], limit: int, place: Callable[[RowT], Sequence[str | int]]) -> Slice:
    """The first `limit` rows; that a query for `limit + 1` found more tells that there is another page.

    place: where in the list a row stands: what `where` gives back.
    """
    kept = list(rows[:limit])
    return Slice(kept, written(place(kept[-1])) if len(rows) > limit else None)


def written(place: Sequence[str | int]) -> str:
    """A place as a cursor."""
    return base64.urlsafe_b64encode(json.dumps(list(place), separators=(",", ":")).encode()).decode().rstrip("=")


def where(cursor: str | None, *kinds: type[str] | type[int]) -> list[Any] | None:
    """The place that a cursor means, one value of each of `kinds`. Raises Invalid for no cursor of this list."""
    if cursor is None:
        return None
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or [type(value) for value in place] != list(kinds) or not all(map(_plain, place)):
        raise invalid_field("/query/cursor", "is not a next_cursor of this list")
    return place


def _plain(value: str | int) -> bool:
    """What a database takes: 64 bits, no NUL, no half of a surrogate pair."""
    if isinstance(value, int):
        return value in INT64
    return "\0" not in value and value.isprintable()
