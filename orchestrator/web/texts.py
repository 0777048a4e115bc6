"""Figures as people read them: the templates' filters."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

MOST_STOPS = 100  # of a slider; beyond, a number is typed
NOTHING = "\N{EN DASH}"
BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}


def span(seconds: float | None) -> str:
    """75.2 → `1:15`, 4000 → `1:06:40`."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(instant: float | None) -> str:
    """How long an instant, seconds since 1970, is past."""
    if instant is None:
        return NOTHING
    seconds = max(0.0, time.time() - instant)
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} d ago"


def clock(instant: float) -> str:
    """The UTC time of day."""
    return time.strftime("%H:%M:%S", time.gmtime(instant))


def size(size_bytes: int | None) -> str:
    """1536 → `1.5 KiB`."""
    if size_bytes is None:
        return NOTHING
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def grouped(number: int | None) -> str:
    """12000 → `12,000`."""
    return NOTHING if number is None else f"{number:,}"


def value(anything: Any) -> str:
    """A setting as JSON; a string without its quotes."""
    return anything if isinstance(anything, str) else json.dumps(anything)


def allowed(prop: Mapping[str, Any]) -> str:
    """Type and bounds of a setting in one line."""
    if "enum" in prop:
        return ", ".join("null" if choice is None else str(choice) for choice in prop["enum"])
    types = [prop["type"]] if isinstance(prop["type"], str) else list(prop["type"])
    bounded = prop.get("items", prop)
    bounds = [f"{sign} {bounded[key]}" for key, sign in BOUNDS.items() if key in bounded]
    return " ".join([" or ".join(types), ", ".join(bounds)]).strip()


def is_slider(prop: Mapping[str, Any]) -> bool:
    """Whether a control is best moved along a line: a number between two bounds that lie near each other."""
    bounded = "minimum" in prop and "maximum" in prop and prop.get("default") is not None
    return bounded and prop["type"] in ("number", "integer") and prop["maximum"] - prop["minimum"] <= MOST_STOPS


def slider_step(prop: Mapping[str, Any]) -> float:
    """Whole steps for an integer, else a hundredth of the way."""
    if prop["type"] == "integer":
        return int(prop.get("multipleOf", 1))
    return float((prop["maximum"] - prop["minimum"]) / 100)


FILTERS = {f.__name__: f for f in (span, ago, clock, size, grouped, value, allowed, is_slider, slider_step)}
