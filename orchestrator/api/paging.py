"""Lists come in pages: `{"data": […], "next_cursor": "…"|null}` with `?limit=` and `?cursor=`.

A cursor says where the last page ended, in the list's own order, so rows that come or go never shift a page.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Query
from pydantic import BaseModel

from orchestrator.problems import invalid_field

MOST = 200
T = TypeVar("T")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=MOST, description="longest page")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before")]


class Listing(BaseModel, Generic[T]):
    data: list[T]
    next_cursor: str | None


class Slice(NamedTuple):
    """The rows of a page, and where the next one begins."""

    rows: list[Any]
    next_cursor: str | None


def cut(rows: Sequence[Row], limit: int, place: Callable[[Row], Any]) -> Slice:
    """The first `limit` rows; a query that asks for `limit + 1` tells whether there are more.

    place: where in the list a row stands, as JSON: what `where` gives back.
    """
    kept = list(rows[:limit])
    return Slice(kept, written(place(kept[-1])) if len(rows) > limit else None)


def written(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def where(cursor: str | None, kind: type[T]) -> T | None:
    """The place that a cursor means: a string, an integer or a pair. Raises Invalid for what is no cursor of this list."""
    if cursor is None:
        return None
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if type(place) is not kind or (kind is int and not 0 <= place < 2**63):  # type: ignore[operator]
        raise invalid_field("/query/cursor", "is not a next_cursor of this list")
    return place  # type: ignore[no-any-return]
