"""Redis: wake-ups, stylise requests and the presence of warm workers. All of it may vanish at any moment.

Nothing here is truth: a lost wake-up costs whoever waits a second, because everybody also looks by themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

WAKE_CHANNEL = "stylefoundry:wake"
REQUESTS = "stylefoundry:stylize"
IDLE = "stylefoundry:idle:"
COUNTS = "stylefoundry:counts"
UPLOADS = "stylefoundry:uploads:"
UPLOADS_S = 10  # so long after its last sign is an attempt believed to have uploads waiting
RATES = "stylefoundry:rate:"
HASTY_S = 0.5  # so long may a request wait to hear whether its key asks too fast
TAKE = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
local per_s, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local since = math.max(0, at - (tonumber(kept[2]) or at))
local left = math.min(most, (tonumber(kept[1]) or most) + since * per_s)
local taken = math.min(wanted, math.floor(left))
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left - taken), 'at', string.format('%.6f', at))
redis.call('EXPIRE', KEYS[1], math.ceil(most / per_s) + 1)
return {taken, string.format('%.6f', (1 - (left - taken)) / per_s)}
"""
AWAITED_S = 10  # so long after its last sign is whoever asked for a picture believed to wait


class Totals(NamedTuple):
    """What all workers together have counted."""

    counts: dict[str, int]  # by the names of meters.OF_WORKERS
    idle_workers: int
    uploads: int  # checkpoints and preview grids that wait to be stored


class Bus:
    """A client of Redis whose failures are answers, not errors. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=5, socket_connect_timeout=1, retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 1)
        )
        hasty: Any = redis.Redis.from_url(
            url, socket_timeout=HASTY_S, socket_connect_timeout=HASTY_S, retry=Retry(NoBackoff(), 0)
        )
        self._take: Any = hasty.register_script(TAKE)
        self._down_until = 0.0

    def available(self) -> bool:
        """True when Redis answers now."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def wake(self) -> None:
        """Tell the dispatchers that something can be claimed. May be lost."""
        self._publish(WAKE_CHANNEL, "")

    def tell(self, job_id: str) -> None:
        """Tell streams that a job has new events. May be lost."""
        self._publish(f"stylefoundry:job:{job_id}", "")

    def _publish(self, channel: str, message: str) -> None:
        # While Redis is away, do not make every caller wait for another refused connection.
        if time.monotonic() < self._down_until:
            return
        try:
            self._redis.publish(channel, message)
        except redis.RedisError:
            self._down_until = time.monotonic() + 1.0

    # --- figures of workers ---

    def count(self, counts: Mapping[str, int], *, job_id: str, uploads: int) -> None:
        """Add to the totals, and say how many uploads of a job wait. May be lost."""
        if time.monotonic() < self._down_until:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for name, by in counts.items():
            pipeline.hincrby(COUNTS, name, by)
        if uploads:
            pipeline.set(UPLOADS + job_id, uploads, ex=UPLOADS_S)
        else:
            pipeline.delete(UPLOADS + job_id)
        try:
            pipeline.execute()
        except redis.RedisError:
            self._down_until = time.monotonic() + 1.0

    def totals(self) -> Totals | None:
        """None while Redis is away."""
        try:
            counts = {name.decode(): int(count) for name, count in self._redis.hgetall(COUNTS).items()}
            waiting = list(self._redis.scan_iter(match=UPLOADS + "*", count=100))
            uploads = sum(int(value or 0) for value in (self._redis.mget(waiting) if waiting else []))
            return Totals(counts, self.idle_workers(), uploads)
        except redis.RedisError:
            return None

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Wake-ups for a dispatcher."""
        listener = Listener(self._redis)
        try:
            yield listener
        finally:
            listener.close()

    # --- rates of requests ---

    def take(self, bucket: str, *, per_s: float, most: int, wanted: int) -> tuple[int, float]:
        """Take up to `wanted` from a bucket that holds `most` and fills at `per_s`: how many there were, and in how
        many seconds there is one again. Raises redis.RedisError, soon: a request waits for it.
        """
        taken, wait_s = self._take(keys=[RATES + bucket], args=[per_s, most, wanted])
        return int(taken), max(0.0, float(wait_s))

    # --- stylise requests: pushed by the API, popped by an idle warm worker, answered under the request's id ---

    def idle_workers(self) -> int:
        """How many warm workers said within the last seconds that they are free. Raises redis.RedisError."""
        return sum(1 for _ in self._redis.scan_iter(match=IDLE + "*", count=100))

    def say_idle(self, worker: str, *, expire_s: int = 3) -> None:
        try:
            self._redis.set(IDLE + worker, "1", ex=expire_s)
        except redis.RedisError:
            self._down_until = time.monotonic() + 1.0

    def say_busy(self, worker: str) -> None:
        try:
            self._redis.delete(IDLE + worker)
        except redis.RedisError:
            self._down_until = time.monotonic() + 1.0

    def request(self, request_id: str, body: dict[str, Any], blobs: dict[str, bytes], *, expire_s: int) -> None:
        """Offer a request to the warm workers; all of it expires. Raises redis.RedisError."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(_awaited(request_id), "1", ex=AWAITED_S)
        for name, data in blobs.items():
            pipeline.set(f"{REQUESTS}:{request_id}:{name}", data, ex=expire_s)
        pipeline.rpush(REQUESTS, json.dumps(body | {"id": request_id}))
        pipeline.expire(REQUESTS, expire_s)
        pipeline.execute()

    def next_request(self, *, timeout_s: float) -> dict[str, Any] | None:
        """Take a request; None when none came in time. Raises redis.RedisError."""
        popped = self._redis.blpop([REQUESTS], timeout=timeout_s)
        return None if popped is None else dict(json.loads(popped[1]))

    def blob(self, request_id: str, name: str) -> bytes | None:
        """Bytes that belong to a request; None when they have expired. Raises redis.RedisError."""
        found = self._redis.get(f"{REQUESTS}:{request_id}:{name}")
        return None if found is None else bytes(found)

    def answer(self, request_id: str, head: dict[str, Any], data: bytes, *, expire_s: int) -> None:
        """Raises redis.RedisError."""
        key = f"{REQUESTS}:{request_id}:answer"
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.rpush(key, json.dumps(head), data)
        pipeline.expire(key, expire_s)
        pipeline.execute()

    def wait_for_answer(self, request_id: str, *, timeout_s: float) -> tuple[dict[str, Any], bytes] | None:
        """The answer; None when none came in time. Whoever asks still waits. Raises redis.RedisError."""
        key = f"{REQUESTS}:{request_id}:answer"
        deadline = time.monotonic() + timeout_s
        self._redis.set(_awaited(request_id), "1", ex=AWAITED_S)
        while (left := deadline - time.monotonic()) > 0:  # below the socket's own time limit each time
            popped = self._redis.blpop([key], timeout=min(left, 3.0))
            if popped is not None:
                data = self._redis.lpop(key)
                return dict(json.loads(popped[1])), bytes(data or b"")
            self._redis.set(_awaited(request_id), "1", ex=AWAITED_S)
        return None

    def withdraw(self, request_id: str) -> None:
        """Nobody waits for this answer any more. Raises redis.RedisError."""
        self._redis.delete(_awaited(request_id))

    def is_awaited(self, request_id: str) -> bool:
        """Whether somebody still waits for the answer. Raises redis.RedisError."""
        return bool(self._redis.exists(_awaited(request_id)))


def _awaited(request_id: str) -> str:
    return f"{REQUESTS}:{request_id}:awaited"


class Listener:
    """A subscription to wake-ups that survives Redis going away."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pubsub: Any = None

    def wait(self, timeout_s: float) -> bool:
        """True when woken; False after `timeout_s`, which is also all that happens while Redis is away."""
        deadline = time.monotonic() + timeout_s
        try:
            if self._pubsub is None:
                self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(WAKE_CHANNEL)
            while (left := deadline - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left) is not None:
                    return True
        except redis.RedisError:
            self.close()
            time.sleep(max(0.0, deadline - time.monotonic()))
        return False

    def close(self) -> None:
        if self._pubsub is None:
            return
        try:
            self._pubsub.close()
        except redis.RedisError:
            self._client.close()
        self._pubsub = None
