"""One signed `POST` to an address that a tenant gave: to the address that was checked, in bounded time, no further.

Redirects are not followed, of the answer only its status is read, no proxy is asked. The signature is that of Standard
Webhooks: HMAC-SHA256 over `{id}.{timestamp}.{body}`, one for each secret that is valid.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from orchestrator.store.webhooks import SECRET_PREFIX, Outcome
from orchestrator.targets import Target, addresses, target_of

CONNECT_S = 5.0
WHOLE_S = 15.0
GONE = 410  # the receiver wants no more of it
USER_AGENT = "stylefoundry-webhooks/1"


def post(
    url: str, message_id: str, body: bytes, secrets: Sequence[str], *, private: bool, whole_s: float = WHOLE_S
) -> Outcome:
    """Send it, and what came of it; an error of the network, the address or the receiver is an outcome too."""
    try:
        target = target_of(url)
        places = addresses(target, private=private)
    except ValueError as error:
        return Outcome(None, f"{url}: {error}")
    except OSError as error:
        return Outcome(None, f"no address of {url} is known: {error}")
    if not secrets:
        return Outcome(None, "there is no secret to sign with: POST /v1/webhooks/secret makes one")
    try:
        status = _status_of_answer(target, places[0], _headers(target, message_id, body, secrets), body, whole_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome(None, f"{type(error).__name__}: {error}")
    return _judged(status)


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One entry of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _headers(target: Target, message_id: str, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    now = int(time.time())
    return {
        "Host": target.authority,
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(signature(secret, message_id, now, body) for secret in secrets),
    }


def _status_of_answer(target: Target, place: str, headers: dict[str, str], body: bytes, whole_s: float) -> int:
    connection = http.client.HTTPConnection(target.host, target.port)
    with _connected(target, place, whole_s) as connection.sock:
        connection.request("POST", target.path, body, headers)
        return connection.getresponse().status


@contextmanager
def _connected(target: Target, place: str, whole_s: float) -> Iterator[socket.socket]:
    """A connection to this very address that ends after `whole_s`, however slowly something still comes in."""
    plain = socket.create_connection((place, target.port), CONNECT_S)
    watched = plain.dup()  # TLS takes the descriptor over; this one ends the same connection
    end = threading.Timer(whole_s, _break, [watched])
    end.start()
    try:
        plain.settimeout(whole_s)
        if target.scheme == "http":
            yield plain
            return
        with ssl.create_default_context().wrap_socket(plain, server_hostname=target.host) as secured:
            yield secured
    finally:
        end.cancel()
        watched.close()
        plain.close()


def _break(connection: socket.socket) -> None:
    with suppress(OSError):  # it was over already
        connection.shutdown(socket.SHUT_RDWR)


def _judged(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status, None)
    if 300 <= status < 400:
        return Outcome(status, f"the answer was {status}: redirects are not followed")
    return Outcome(status, f"the answer was {status}", final=status == GONE)
