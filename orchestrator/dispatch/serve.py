"""A dispatcher's own small HTTP: `/livez` and `/metrics`, where `dispatch_port` is set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

LIVE_S = 180.0  # without the end of a turn: connecting to a Ray that is away takes a minute of it


@contextmanager
def serving(host: str, port: int, registry: CollectorRegistry, idle_s: Callable[[], float]) -> Iterator[int]:
    """Answer on a port for as long as the block lasts; gives the port (0: one that is free).

    idle_s: seconds since the last turn ended. Raises OSError when the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif self.path == "/livez":
                alive = idle_s() < LIVE_S
                self._answer(200 if alive else 503, b"alive\n" if alive else b"no turn has ended for long\n")
            else:
                self._answer(404, b"/livez or /metrics\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Asked every few seconds by machines: not in the log."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
