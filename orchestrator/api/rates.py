"""How fast a key may ask: a bucket in Redis for each key and kind of request, the same for all replicas.

A process takes some of a bucket at once and spends it by itself, so most requests ask nobody. A request more or less is
what that costs: a replica may hold back a twentieth of ten seconds' worth. While Redis is away requests pass.
"""

from __future__ import annotations

import math
import threading
import time
from enum import StrEnum
from typing import NamedTuple

import redis

from orchestrator.bus import Bus
from orchestrator.problems import TooMany
from orchestrator.sessions import SAFE_METHODS
from orchestrator.settings import Settings

BURST_S = 10  # so many seconds' worth may come at once
SHARE = 20  # a process takes this part of it at a time
WITHOUT_REDIS_S = 5.0  # so long is Redis not asked again after it was away
MOST = 10_000  # buckets remembered at a time


class Kind(StrEnum):
    READS = "reads"
    WRITES = "writes"
    STYLIZES = "stylizes"

    @classmethod
    def of(cls, method: str) -> Kind:
        return cls.READS if method in SAFE_METHODS else cls.WRITES


class Limit(NamedTuple):
    per_s: float
    most: int  # that a bucket holds


class Rates:
    """Safe to share between threads."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        per_minute = {
            Kind.READS: settings.reads_per_minute,
            Kind.WRITES: settings.writes_per_minute,
            Kind.STYLIZES: settings.stylizes_per_minute,
        }
        self._limits = {kind: Limit(n / 60, max(1, n * BURST_S // 60)) for kind, n in per_minute.items() if n}
        self._lock = threading.Lock()
        self._left: dict[tuple[str, Kind], int] = {}  # taken from Redis and not spent
        self._empty_until: dict[tuple[str, Kind], float] = {}  # time.monotonic()
        self._away_until = 0.0

    def take(self, key_id: str, kind: Kind) -> bool:
        """Spend one of what this process holds; False: `ask`. Asks nobody. Raises TooMany."""
        if kind not in self._limits:
            return True
        bucket = (key_id, kind)
        with self._lock:
            if (left := self._left.get(bucket, 0)) > 0:
                self._left[bucket] = left - 1
                return True
            wait_s = self._empty_until.get(bucket, 0.0) - time.monotonic()
        if wait_s > 0:
            raise self._too_many(kind, wait_s)
        return False

    def ask(self, key_id: str, kind: Kind) -> None:
        """Take more from Redis and spend one of it. Raises TooMany when there is none."""
        if time.monotonic() < self._away_until:
            return
        limit, bucket = self._limits[kind], (key_id, kind)
        wanted = max(1, limit.most // SHARE)
        try:
            taken, wait_s = self._bus.take(f"{key_id}:{kind}", per_s=limit.per_s, most=limit.most, wanted=wanted)
        except redis.RedisError:
            self._away_until = time.monotonic() + WITHOUT_REDIS_S
            return
        with self._lock:
            if max(len(self._left), len(self._empty_until)) >= MOST:
                self._left.clear()
                self._empty_until.clear()
            if taken:
                self._left[bucket] = self._left.get(bucket, 0) + taken - 1
                return
            self._empty_until[bucket] = time.monotonic() + wait_s
        raise self._too_many(kind, wait_s)

    def _too_many(self, kind: Kind, wait_s: float) -> TooMany:
        limit = self._limits[kind]
        detail = f"this key may send {limit.per_s * 60:.0f} {kind} a minute, {limit.most} of them at once"
        return TooMany(detail, retry_after_s=max(1, math.ceil(wait_s)))
