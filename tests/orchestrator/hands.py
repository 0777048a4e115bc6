"""The hands of a warm worker: the other end of the bus, without a model behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.bus import Bus
from orchestrator.settings import Settings

Answer = tuple[dict[str, Any], bytes]


@contextmanager
def warm_worker(
    settings: Settings, answer: Callable[[Bus, dict[str, Any]], Answer | None]
) -> Iterator[list[dict[str, Any]]]:
    """The other end of the bus: says that it is idle, takes what comes, answers with `answer` unless that is None."""
    bus = Bus(settings.redis_url.get_secret_value())
    over, taken = threading.Event(), []

    def work() -> None:
        while not over.is_set():
            bus.say_idle("warm-1")
            request = bus.next_request(timeout_s=0.2)
            if request is not None:
                taken.append(request)
                if (answered := answer(bus, request)) is not None:
                    bus.answer(request["id"], *answered, expire_s=10)

    bus.say_idle("warm-1")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join(10)


def drawn(bus: Bus, request: dict[str, Any]) -> Answer:
    return {"status": 200, "content_type": "image/png"}, b"drawn"
