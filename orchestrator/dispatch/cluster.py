"""Ray, through Ray Client: the one place that talks to it.

Ray holds processes and nothing else. Room is taken in our own ledger, so actors ask Ray for no cores; GPUs they do ask
for, because Ray then sets their visibility. Everything that says «Ray cannot be reached» is one error, `RayAway`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from workers.actors import Worker


class RayAway(Exception):
    """Ray cannot be reached, or the connection to it broke: nothing is known about its actors now."""


class Gone(Exception):
    """An actor's process is gone."""


class Capacity(NamedTuple):
    cpus: int
    gpus: int
    nodes: int


SETTLE_S = 1.5  # from Ray Client's first sign of life to a node that takes it
CONCURRENT_CALLS = 8  # of one actor: `run`, and a `wait` from each dispatcher that watches it


class Cluster:
    """A connection to Ray and what is asked over it. Used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_address
        self._namespace = settings.ray_namespace
        self.connected = False
        self._listens_since: float | None = 0.0  # monotonic; None once it was seen not to

    def connect(self) -> None:
        """Raises RayAway."""
        if self.connected:
            return
        self._knock()
        with _ray_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(self._address, namespace=self._namespace, log_to_driver=False, logging_level=logging.WARNING)
        self.connected = True

    def _knock(self) -> None:
        """Ray Client takes half a minute to say that nobody listens, or that it listens before its node is up."""
        where = urlsplit(self._address)
        try:
            socket.create_connection((where.hostname or "127.0.0.1", where.port or 10001), timeout=2).close()
        except OSError as error:
            self._listens_since = None
            raise RayAway(f"{self._address}: {error}") from error
        now = time.monotonic()
        self._listens_since = now if self._listens_since is None else self._listens_since
        if now - self._listens_since < SETTLE_S:
            raise RayAway(f"{self._address} has just begun to listen")

    def disconnect(self) -> None:
        """Forget the connection; handles and references made over it are void."""
        self.connected = False
        with contextlib.suppress(Exception):  # it is broken already: there is nothing to learn from how it closes
            ray.shutdown()

    def capacity(self) -> Capacity:
        with _ray_errors():
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = len([node for node in found if node["Alive"]])
        return Capacity(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), nodes)

    def start(self, name: str, *, warm: bool, threads: int, gpus: int) -> Any:
        """A handle of a new detached actor, or of the one that has this name already."""
        options: dict[str, Any] = {
            "name": name,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_concurrency": CONCURRENT_CALLS,
            "max_restarts": 0,  # a new attempt is our decision, under a new fence
            "num_cpus": 0,
            "num_gpus": gpus,
            "scheduling_strategy": "SPREAD",
        }
        with _ray_errors():
            return ray.remote(Worker).options(**options).remote(name, warm, threads)

    def find(self, name: str) -> Any | None:
        """The handle of a living actor; None when Ray has none of this name."""
        with _ray_errors():
            try:
                return ray.get_actor(name, namespace=self._namespace)
            except ValueError:
                return None

    def names(self) -> list[str]:
        """The names of all living actors of our namespace."""
        with _ray_errors():
            return [str(name) for name in ray.util.list_named_actors()]

    def ready(self, actor: Any) -> Any:
        """A reference that is there once the actor has done its imports."""
        with _ray_errors():
            return actor.ready.remote()

    def run(self, actor: Any, ticket: Ticket) -> Any:
        """Start an attempt; a reference that is there when it is over."""
        with _ray_errors():
            return actor.run.remote(ticket.job_id, ticket.attempt)

    def wait(self, actor: Any, ticket: Ticket) -> Any:
        """A reference that is there when an attempt, started by whomever, is over."""
        with _ray_errors():
            return actor.wait.remote(ticket.job_id, ticket.attempt)

    def over(self, references: Sequence[Any]) -> list[Any]:
        """Those of `references` that are there, at once."""
        if not references:
            return []
        with _ray_errors():
            done, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
        return list(done)

    def result(self, reference: Any) -> Any:
        """What a call that is over returned. Raises Gone, or RuntimeError with what the actor raised."""
        with _ray_errors():
            try:
                return ray.get(reference)
            except RayActorError as error:
                raise Gone(_first_line(error)) from error
            except RayTaskError as error:
                raise RuntimeError(_last_line(error)) from error

    def kill(self, name: str) -> None:
        """End an actor's process; none of that name is no error."""
        if (actor := self.find(name)) is not None:
            with _ray_errors():
                ray.kill(actor, no_restart=True)


@contextlib.contextmanager
def _ray_errors() -> Iterator[None]:
    try:
        yield
    except (Gone, RayActorError, RayTaskError):
        raise
    except (ConnectionError, grpc.RpcError, RayError) as error:
        # The cause stands in the last line: Ray Client sends its server's whole traceback.
        raise RayAway(f"{type(error).__name__}: {_first_line(error)} {_last_line(error)}") from error
    except Exception as error:
        # Ray Client says that its connection is gone with a plain RuntimeError or Exception, in these words.
        if any(words in str(error) for words in ("Ray Client", "ray client", "not connected", "shut down")):
            raise RayAway(_first_line(error)) from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
