"""A TCP proxy that a test can make fail: refuse, answer as an overloaded gateway, or cut connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class Proxy:
    """Passes bytes on to `target`. Its settings hold for connections that come from now on."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.busy_answers = 0  # how many connections get a 503 first
        self.drops = 0  # how many connections are closed unanswered, after the request has reached the target
        self._pairs: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Close every connection that is open now."""
        for end in list(self._pairs):
            _close(end)

    def close(self) -> None:
        _close(self._listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            busy, drop = self.busy_answers > 0, self.drops > 0
            self.busy_answers -= busy
            self.drops -= drop and not busy
            threading.Thread(target=self._serve, args=(client, busy, drop), daemon=True).start()

    def _serve(self, client: socket.socket, busy: bool, drop: bool) -> None:
        if busy:
            client.recv(CHUNK_BYTES)
            client.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            _close(client)
            return
        server = socket.create_connection(self._target)
        ends = {client, server}
        self._pairs |= ends
        threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
        self._pass_on(server, client, deaf=drop)
        self._pairs -= ends

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, deaf: bool = False) -> None:
        """Until one side closes; deaf: until `source` says something, of which `sink` hears nothing."""
        with suppress(OSError):  # the other side or `cut` was faster
            while (data := source.recv(CHUNK_BYTES)) and not deaf:
                sink.sendall(data)
        _close(source)
        _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
