"""Wakes the streams of a job's events: one subscription to Redis per process, whatever number of streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from redis.exceptions import RedisError

CHANNEL = "stylefoundry:job:"
LOOK_S = 5.0  # a stream looks by itself this often while Redis is there,
LOOK_WITHOUT_REDIS_S = 1.0  # and this often while it is away


class News:
    """Used on one event loop. All that it does is end waits early: what streams send comes from SQL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._connected = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the process is going down: streams end."""
        return self._closed

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Pass on what Redis says, for as long as the block lasts."""
        task = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            self.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def close(self) -> None:
        """End all waits, now and from now on. Call it on the event loop."""
        self._closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    @asynccontextmanager
    async def subscription(self, job_id: str) -> AsyncIterator[Subscription]:
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            yield Subscription(self, event)
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def pause_s(self) -> float:
        return LOOK_S if self._connected else LOOK_WITHOUT_REDIS_S

    def _tell(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def _listen(self) -> None:
        # `closed` besides the cancellation: redis-py can take a cancel that meets its own time limit for the latter.
        while not self._closed:
            try:
                async with (
                    redis.asyncio.Redis.from_url(self._url, health_check_interval=5) as client,
                    client.pubsub(ignore_subscribe_messages=True) as pubsub,
                ):
                    await pubsub.psubscribe(f"{CHANNEL}*")
                    await self._pass_on(pubsub)
            except RedisError:
                self._connected = False
                await asyncio.sleep(LOOK_WITHOUT_REDIS_S)

    async def _pass_on(self, pubsub: redis.asyncio.client.PubSub) -> None:
        self._connected = True
        for job_id in list(self._waiting):  # what was said while nobody listened
            self._tell(job_id)
        while not self._closed:
            message = await pubsub.get_message(timeout=LOOK_S)
            if message is not None:
                self._tell(message["channel"].decode().removeprefix(CHANNEL))


class Subscription:
    """One stream's interest in a job."""

    def __init__(self, news: News, event: asyncio.Event) -> None:
        self._news, self._event = news, event

    async def wait(self, *, at_most_s: float) -> None:
        """Until the job has something new or it is time to look anyway."""
        try:
            await asyncio.wait_for(self._event.wait(), min(at_most_s, self._news.pause_s()))
        except TimeoutError:
            return
        finally:
            if not self._news.closed:
                self._event.clear()
