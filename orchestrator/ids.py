"""Ids like `job_01JD…`: a prefix and a ULID, in the order in which this process made them."""

from __future__ import annotations

import re
import threading
import time

from ulid import ULID

ULID_PATTERN = "[0-9A-HJKMNP-TV-Z]{26}"

_lock = threading.Lock()
_newest = 0


def new_id(prefix: str) -> str:
    """A new id; later calls in this process give larger ids, also within one millisecond or after a clock set back."""
    global _newest
    with _lock:
        fresh = int(ULID.from_timestamp(time.time()))
        _newest = fresh if fresh > _newest else _newest + 1
        return f"{prefix}_{ULID.from_int(_newest)}"


def is_id(prefix: str, text: str) -> bool:
    """True for what `new_id` could have made."""
    return re.fullmatch(f"{prefix}_{ULID_PATTERN}", text) is not None
