"""`python -m orchestrator.api`: one process; run any number of them behind a load balancer."""

from __future__ import annotations

from types import FrameType

import uvicorn

from orchestrator import traces
from orchestrator.api.app import create_app
from orchestrator.settings import settings
from orchestrator.telemetry import configure_logging

GRACE_S = 3  # for requests under way when the end is asked for


class Server(uvicorn.Server):
    """Ends open streams first: uvicorn would wait for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        services = getattr(self.config.app.state, "services", None)  # type: ignore[union-attr]
        if services is not None:
            services.news.close()
        super().handle_exit(sig, frame)


def main() -> None:
    configure_logging(json=settings().log_json)
    traces.configure("api")
    config = uvicorn.Config(
        create_app(settings()),
        host=settings().host,
        port=settings().port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
