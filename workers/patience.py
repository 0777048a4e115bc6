"""Waiting for SQL and S3 to come back: calls are repeated with growing pauses until `outage_s` have passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from minio.error import InvalidResponseError, S3Error, ServerError

from orchestrator.objects import OUTAGES
from orchestrator.store.database import is_outage
from workers.endings import StorageAway

log = structlog.get_logger()

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
SERVER_FAULTS = ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "BadGateway")


class Patience:
    """One attempt's patience with its stores. Safe to share between threads."""

    def __init__(self, outage_s: float) -> None:
        self._outage_s = outage_s
        self._given_up = threading.Event()
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> bool:
        """True while a call waits for a store: a training that stands still then is not to blame."""
        return self._waiting > 0

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, once its store answers. `work` must be safe to repeat.

        Raises StorageAway after `outage_s` without an answer, or when `give_up` was called meanwhile.
        """
        try:
            return work()
        except Exception as error:
            if not is_away(error):
                raise
            log.warning("store_away", error=brief(error))
        began_at = time.monotonic()
        with self._counted():
            result = self._repeat(work)
        log.info("store_back", after_s=round(time.monotonic() - began_at, 1))
        return result

    def give_up(self) -> None:
        """Whoever waits, now or later, waits no longer."""
        self._given_up.set()

    def _repeat(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._outage_s
        pause_s = FIRST_PAUSE_S
        while True:
            if self._given_up.wait(pause_s):
                raise StorageAway("the attempt is over: nobody waits for the store any more")
            try:
                return work()
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() > deadline:
                    raise StorageAway(f"no answer for {self._outage_s:g} s: {brief(error)}") from error
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1


def is_away(error: BaseException) -> bool:
    """True for errors that pass when SQL or S3 is back."""
    if isinstance(error, S3Error):
        return error.code in SERVER_FAULTS
    return is_outage(error) or isinstance(error, (*OUTAGES, ServerError, InvalidResponseError))


def brief(error: BaseException) -> str:
    """The first line of what an error says, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
