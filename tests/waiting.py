"""Waiting for something to become true: what tests do instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float, what: str, *, every_s: float = 0.02) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises AssertionError, which names `what` was waited for, when `timeout_s` have passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain until {what}; last seen: {result!r}")
        time.sleep(every_s)
