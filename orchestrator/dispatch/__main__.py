"""`python -m orchestrator.dispatch`: one dispatcher, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from orchestrator.bus import Bus
from orchestrator.dispatch.loop import Dispatcher
from orchestrator.objects import Objects
from orchestrator.settings import settings
from orchestrator.store.database import Database
from orchestrator.telemetry import configure_logging


def main() -> None:
    current = settings()
    configure_logging(json=current.log_json)
    dispatcher = Dispatcher(
        current, Database(current.database_url), Bus(current.redis_url.get_secret_value()), Objects(current)
    )

    def stop(number: int, frame: Any) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    dispatcher.run()
    sys.stderr.flush()
    os._exit(0)  # closing a Ray Client properly takes it half a minute, and nothing depends on it


if __name__ == "__main__":
    main()
