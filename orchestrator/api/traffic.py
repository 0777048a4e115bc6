"""Around every request: an id, one log line, and the figures of `/metrics`."""

from __future__ import annotations

import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import traces
from orchestrator.ids import is_id, new_id
from orchestrator.telemetry import log

QUIET = ("/livez", "/readyz", "/metrics")  # asked every few seconds by machines: not in the log
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Traffic:
    """What was asked and how long it took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "route", "status"]
        self.requests = Counter("stylefoundry_requests", "Requests answered", labels, registry=registry)
        self.seconds = Histogram(
            "stylefoundry_request_seconds",
            "Time to the head of the answer, seconds",
            ["method", "route"],
            buckets=BUCKETS,
            registry=registry,
        )


class TrafficMiddleware:
    """Plain ASGI: streams pass through unhindered."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app, self.traffic = app, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = new_id("req")
        began, began_ns = time.monotonic(), traces.now_ns()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                self._note(scope, message["status"], time.monotonic() - began)
                _trace(scope, message, began_ns, request_id)
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            await self.app(scope, receive, send_with_id)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self.traffic.requests.labels(scope["method"], route, status).inc()
        self.traffic.seconds.labels(scope["method"], route).observe(seconds)
        if scope["path"] not in QUIET:
            log.info("request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))


def _trace(scope: Scope, message: Message, began_ns: int, request_id: str) -> None:
    """A request that made a job is the first span of the job's trace."""
    if message["status"] != 201:
        return
    location = dict(message["headers"]).get(b"location", b"").decode()
    job_id = location.removeprefix("/v1/jobs/")
    if is_id("job", job_id):
        traces.first(f"{scope['method']} {scope['path']}", job_id, began_ns=began_ns, request=request_id)
