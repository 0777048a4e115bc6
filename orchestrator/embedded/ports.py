"""Loopback ports that are free now and stay so."""

from __future__ import annotations

import secrets
import socket

# Below the range from which Linux takes ports for outgoing connections (32768 up), so that a port that is kept for the
# next start is not found taken by a passing client; above the 23000s, which Ray Client uses.
FIRST, LAST = 24_100, 32_700


def is_free(port: int) -> bool:
    """True when nothing listens on `port`, on any address."""
    with socket.socket() as probe:
        # As the servers do: connections of an earlier process that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_port(*, apart_from: set[int] | frozenset[int] = frozenset()) -> int:
    """A port that nobody listens on. Raises RuntimeError when a hundred random ones are taken."""
    for _ in range(100):
        port = FIRST + secrets.randbelow(LAST - FIRST)
        if port not in apart_from and is_free(port):
            return port
    raise RuntimeError(f"no free port found between {FIRST} and {LAST}")
