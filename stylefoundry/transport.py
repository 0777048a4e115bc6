"""One HTTP exchange with the service: retried where another try can help, refused answers as `ApiError`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2

from stylefoundry.errors import ApiError, NotConfigured, Unreachable

TRY_AGAIN = (429, 502, 503)  # nothing happened, or (502) an `Idempotency-Key` sees to it that it happens once
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
LONGEST_PAGE = 200  # of a list, by the service


class Transport:
    """Requests to one service under one key. Safe to share between threads.

    patience_s: how long a request is tried anew while the service does not answer, or says 429, 502 or 503.
    """

    def __init__(self, url: str, api_key: str, *, patience_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise NotConfigured(f"address {url!r}: give scheme, host and port, e.g. http://127.0.0.1:8790")
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx2.Timeout(60, connect=5),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON at `path`; parameters that are None are left out."""
        return self.request("GET", path, params=params).json()

    def create(self, path: str, body: Any) -> Any:
        """`POST` what makes something, once however often it has to be sent."""
        return self.request("POST", path, json=body, headers={"Idempotency-Key": str(uuid4())}).json()

    def post(self, path: str) -> Any:
        """`POST` a wish that may be sent twice."""
        return self.request("POST", path).json()

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Every item of a list, fetched page by page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.get(path, {"limit": LONGEST_PAGE, **(params or {}), "cursor": cursor})
            yield from page["data"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def request(self, verb: str, path: str, **arguments: Any) -> httpx2.Response:
        """One exchange, tried again for `patience_s`. Raises ApiError or Unreachable."""
        if params := arguments.get("params"):
            arguments["params"] = {name: value for name, value in params.items() if value is not None}
        deadline = time.monotonic() + self.patience_s
        for wait_s in waits():
            failure: ApiError | Unreachable
            try:
                response = self._http.request(verb, path, **arguments)
            except httpx2.TransportError as error:
                failure = Unreachable(f"no answer from {self.url}: {error or type(error).__name__}")
                failure.__cause__ = error
            else:
                if response.is_success:
                    return response
                failure = problem_of(response)
                if response.status_code not in TRY_AGAIN:
                    raise failure
                wait_s = max(wait_s, failure.retry_after_s or 0.0)
            if time.monotonic() + wait_s > deadline:
                raise failure
            time.sleep(wait_s)
        raise AssertionError("waits() never ends")

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """An answer that is read as it comes, not retried. Raises ApiError or httpx2.TransportError.

        The service says something at least every 15 s; 60 s of silence are a dead connection.
        """
        with self._http.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise problem_of(response)
            yield response


def waits() -> Iterator[float]:
    """Seconds between tries: doubling up to a limit, each shortened at random so that clients do not come in step."""
    longest = FIRST_WAIT_S
    while True:
        yield longest * random.uniform(0.5, 1.0)
        longest = min(2 * longest, LONGEST_WAIT_S)


def problem_of(response: httpx2.Response) -> ApiError:
    """The problem document of an answer that was read whole."""
    try:
        document = response.json()
    except ValueError:
        document = None
    retry_after = response.headers.get("Retry-After", "")
    return ApiError.of(response.status_code, document, float(retry_after) if retry_after.isdigit() else None)


def segment(text: object) -> str:
    """`text` as one segment of a path."""
    return quote(str(text), safe="")
