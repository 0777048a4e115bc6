"""A load on an HTTP server, light enough to come from one core: a fixed number of connections, no client library.

`as_fast_as_possible` sends the next request when an answer is there; `at_a_pace` sends at given moments, and a latency
counts from the moment at which the request was due, so a server that stands still cannot hide it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CONNECTIONS = 16
Body = Callable[[int], tuple[bytes, Mapping[str, str]]]  # number of the request -> body, headers


@dataclass
class Result:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.wall_s


class Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send, read the whole answer, return its status."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


class Load:
    """Requests to one path of the server on a loopback port; each has to be answered with `expected`."""

    def __init__(self, port: int, path: str, make: Body, *, expected: int) -> None:
        self.port, self.path, self.make, self.expected = port, path, make, expected
        self.sent = 0

    def as_fast_as_possible(self, *, for_s: float) -> Result:
        return asyncio.run(self._run(lambda n, started: started if time.perf_counter() < started + for_s else None))

    def at_a_pace(self, per_second: float, *, for_s: float) -> Result:
        count = int(per_second * for_s)
        return asyncio.run(self._run(lambda n, started: started + n / per_second if n < count else None))

    async def _run(self, due: Callable[[int, float], float | None]) -> Result:
        """due: number of the request in this run and the run's start -> when it is to be sent; None: no more."""
        result, numbers = Result(), iter(range(10**9))
        started = time.perf_counter()

        async def one() -> None:
            host = f"127.0.0.1:{self.port}"
            connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port), host)
            while (moment := due(next(numbers), started)) is not None:
                now = time.perf_counter()
                if moment > now:
                    await asyncio.sleep(moment - now)
                body, headers = self.make(self.sent)
                self.sent += 1
                since = moment if moment > started else time.perf_counter()
                status = await connection.post(self.path, body, headers)
                if status != self.expected:
                    raise RuntimeError(f"{self.path} answered {status}, not {self.expected}")
                result.latencies_s.append(time.perf_counter() - since)
            connection.close()

        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        result.wall_s = time.perf_counter() - started
        return result
