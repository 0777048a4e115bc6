"""Counts what a training step costs, in a child process: torch has no place in the API."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from orchestrator.estimate import PhaseCost
from orchestrator.telemetry import log

COUNT_S = 120  # longest time that a child may take, seconds
MOST_WAITING = 32  # counts; beyond, a job goes without an estimate

Counted = Sequence[PhaseCost]


class Busy(Exception):
    """Too many counts are waiting, or this one took too long: ask again."""


class Counting:
    """One child at a time; whoever asks for what is being counted gets the same answer."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "counting")
        self._lock = threading.Lock()
        self._running: dict[str, Future[Counted]] = {}
        self._child: subprocess.Popen[str] | None = None
        self._closed = False

    def start(self, key: str, asked: Mapping[str, Any], keep: Callable[[Counted], None]) -> Future[Counted]:
        """Count what `asked` (for `stylemodels cost`) says; the result is empty where it cannot be counted.

        keep: called with the result before anybody else gets it. Raises Busy, the future too.
        """
        with self._lock:
            if key in self._running:
                return self._running[key]
            if len(self._running) >= MOST_WAITING or self._closed:
                raise Busy
            future = self._running[key] = self._pool.submit(self._count, key, asked, keep)
            return future

    def close(self) -> None:
        """End the child, and start no other one."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _count(self, key: str, asked: Mapping[str, Any], keep: Callable[[Counted], None]) -> Counted:
        try:
            counted = self._ask(asked)
            keep(counted)
            return counted
        finally:
            with self._lock:
                del self._running[key]

    def _ask(self, asked: Mapping[str, Any]) -> Counted:
        with self._lock:
            if self._closed:
                raise Busy
            pipe = subprocess.PIPE
            command = [sys.executable, "-m", "stylemodels", "cost"]
            self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        try:
            out, told = self._child.communicate(json.dumps(asked), timeout=COUNT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            out, told = self._child.communicate()
        if self._child.returncode < 0:  # killed: nothing is known
            raise Busy
        if self._child.returncode > 0:
            log.warning("not_counted", task=asked["task"], error=told[-500:])
            return []
        return [PhaseCost(**phase) for phase in json.loads(out)]
