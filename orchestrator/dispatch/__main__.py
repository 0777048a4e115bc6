"""`python -m orchestrator.dispatch`: one dispatcher, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from orchestrator import meters, traces
from orchestrator.bus import Bus
from orchestrator.dispatch import token
from orchestrator.dispatch.loop import Dispatcher
from orchestrator.dispatch.serve import serving
from orchestrator.objects import Objects
from orchestrator.settings import Settings, settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import Outdated
from orchestrator.telemetry import configure_logging


def main() -> None:
    current = settings()
    configure_logging(json=current.log_json)
    traces.configure("dispatcher")
    if not (current.ray_without_token or token.is_given()):
        sys.exit(token.MISSING)
    dispatcher = Dispatcher(
        current, Database(current.database_url), Bus(current.redis_url.get_secret_value()), Objects(current)
    )

    def stop(number: int, frame: Any) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with _status(current, dispatcher):
            dispatcher.run()
    except Outdated as error:
        sys.exit(str(error))
    sys.stderr.flush()
    os._exit(0)  # closing a Ray Client properly takes it half a minute, and nothing depends on it


def _status(current: Settings, dispatcher: Dispatcher) -> AbstractContextManager[int | None]:
    if current.dispatch_port is None:
        return nullcontext()
    return serving(current.host, current.dispatch_port, meters.dispatcher.registry, dispatcher.idle_s)


if __name__ == "__main__":
    main()
