"""Ray, through Ray Client: the one place that talks to it.

Ray holds processes and nothing else. Room is taken in our own ledger, so actors ask Ray for no cores; GPUs they do ask
for, because Ray then sets their visibility. Everything that says «Ray cannot be reached» is one error, `RayAway`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.autoscaler.sdk import request_resources
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.client import ray as ray_client
from ray.util.client.common import GRPC_OPTIONS
from ray.util.placement_group import NODE_ID_LABEL_KEY
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from workers.actors import Worker


class RayAway(Exception):
    """Ray cannot be reached, or the connection to it broke: nothing is known about its actors now."""


class Gone(Exception):
    """An actor's process is gone."""


class Capacity(NamedTuple):
    rooms: Mapping[str, tuple[int, int]]  # cores and GPUs of the nodes that are here to stay, by Ray's id
    nodes: int  # alive
    leaving: frozenset[str]  # ids of those among them that are being drained


HARDLY_A_CORE = 0.001  # keeps actors off nodes that offer no cores, such as the head of a large cluster
CONNECT_S = 45.0  # limit of the first try to connect: 2 s are usual, 20 on a busy machine; Ray itself knows none
LONGEST_CONNECT_S = 180.0  # limit of later ones
SETTLE_S = 1.5  # from Ray Client's first sign of life to a node that takes it
ANSWER_S = 5.0  # of a process that has nothing to do for an answer
CONCURRENT_CALLS = 8  # of one actor: `run`, and a `wait` from each dispatcher that watches it


class Cluster:
    """A connection to Ray and what is asked over it. Used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_address
        self._namespace = settings.ray_namespace
        self.connected = False
        self._listens_since: float | None = 0.0  # monotonic; None once it was seen not to
        self._limit_s = CONNECT_S

    def connect(self) -> None:
        """Raises RayAway."""
        if self.connected:
            return
        self._knock()
        with _ray_errors(), warnings.catch_warnings(), _given_up_after(self._limit_s):
            self._limit_s = min(2 * self._limit_s, LONGEST_CONNECT_S)  # a machine that needs longer gets longer
            warnings.simplefilter("ignore")
            ray.init(self._address, namespace=self._namespace, log_to_driver=False, logging_level=logging.WARNING)
        self.connected, self._limit_s = True, CONNECT_S

    def _knock(self) -> None:
        """Ray Client takes half a minute to say that nobody listens, or that it listens before its node is up."""
        where = urlsplit(self._address)
        host, port = where.hostname or "127.0.0.1", where.port or 10001
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError as error:
            self._listens_since = None
            raise RayAway(f"{self._address}: {error}") from error
        now = time.monotonic()
        self._listens_since = now if self._listens_since is None else self._listens_since
        if now - self._listens_since < SETTLE_S:
            raise RayAway(f"{self._address} has just begun to listen")
        _ping(host, port)

    def disconnect(self) -> None:
        """Forget the connection; handles and references made over it are void."""
        self.connected = False
        with contextlib.suppress(Exception):  # it is broken already: there is nothing to learn from how it closes
            ray.shutdown()

    def capacity(self) -> Capacity:
        """What each node has that is here to stay; one without cores and GPUs is no place for work."""
        with _ray_errors():
            found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in found if node["Alive"]]
        leaving = self.draining() if len(alive) > 1 else frozenset()
        staying = {node["NodeID"]: node["Resources"] for node in alive if node["NodeID"] not in leaving}
        rooms = {node: (int(has.get("CPU", 0)), int(has.get("GPU", 0))) for node, has in staying.items()}
        return Capacity({node: room for node, room in rooms.items() if any(room)}, len(alive), leaving)

    def ask_for(self, bundles: list[dict[str, int]]) -> None:
        """Tell Ray's autoscaler what room is wanted in all; nobody waits for an answer, it is told again soon."""
        with _ray_errors():
            ray.remote(request_resources).options(num_cpus=0, max_retries=0).remote(bundles=bundles)

    def start(
        self, name: str, *, warm: bool, threads: int, gpus: int, place: tuple[Any, int] | None = None, node: str = ""
    ) -> Any:
        """A handle of a new detached actor, or of the one that has this name already.

        place: what `place` returned, and which of its bundles. node: where, unless that node is gone; empty: anywhere.
        """
        anywhere = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options: dict[str, Any] = {
            "name": name,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_concurrency": CONCURRENT_CALLS,
            "max_restarts": 0,  # a new attempt is our decision, under a new fence
            "num_cpus": HARDLY_A_CORE,
            "num_gpus": gpus,
            "scheduling_strategy": anywhere if place is None else PlacementGroupSchedulingStrategy(*place),
        }
        with _ray_errors():
            return ray.remote(Worker).options(**options).remote(name, warm, threads)

    def place(self, name: str, bundles: Sequence[dict[str, float]], strategy: str, nodes: Sequence[str]) -> Any:
        """Ask for room for several actors at once, a bundle for each: a placement group that outlives this process.

        nodes: of each bundle; empty: as `strategy` says.
        """
        labels = [{NODE_ID_LABEL_KEY: node} for node in nodes] or None
        with _ray_errors():
            return ray.util.placement_group(
                list(bundles), strategy=strategy, name=name, lifetime="detached", bundle_label_selector=labels
            )

    def places(self) -> list[str]:
        """The names of the placement groups that have not been removed."""
        with _ray_errors():
            table: dict[str, dict[str, Any]] = ray.util.placement_group_table()
        return [str(entry["name"]) for entry in table.values() if entry["state"] != "REMOVED"]

    def unplace(self, name: str) -> None:
        """Remove a placement group, with the actors in it; none of that name is no error."""
        with _ray_errors():
            try:
                group = ray.util.get_placement_group(name)
            except ValueError:
                return
            ray.util.remove_placement_group(group)

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

    def run(self, actor: Any, ticket: Ticket, workers: int = 1) -> Any:
        """Start an attempt, as rank 0 of so many; a reference that is there when it is over."""
        with _ray_errors():
            return actor.run.remote(ticket.job_id, ticket.attempt, workers)

    def meeting(self, leader: Any) -> Any:
        """A reference to where the others of a gang find its rank 0: there once its process is."""
        with _ray_errors():
            return leader.meeting.remote()

    def follow(self, actor: Any, ticket: Ticket, *, rank: int, workers: int, meeting: Any) -> Any:
        """Start another rank's part; a reference that is there when it is over. meeting: what `meeting` returned."""
        with _ray_errors():
            return actor.follow.remote(ticket.job_id, ticket.attempt, rank, workers, meeting)

    def nodes_of(self, names: Sequence[str]) -> dict[str, str]:
        """Living actors among `names` that answer, and the ids of their nodes."""
        found = {name: actor for name in names if (actor := self.find(name)) is not None}
        with _ray_errors():
            asked = {name: actor.ray_node.remote() for name, actor in found.items()}
            there, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        nodes = {}
        for name in [name for name, reference in asked.items() if reference in there]:
            with contextlib.suppress(Gone):
                nodes[name] = str(self.result(asked[name]))
        return nodes

    def draining(self) -> frozenset[str]:
        """The ids of the nodes that are about to go."""
        with _ray_errors():
            asked = ray.remote(draining_nodes).options(num_cpus=0).remote()
            there, _ = ray.wait([asked], timeout=ANSWER_S)
        return frozenset(self.result(asked)) if there else frozenset()

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


def draining_nodes() -> list[str]:
    """Runs in the cluster: a client has no such question, and Ray no public answer."""
    return list(ray._private.state.state.get_draining_nodes())


def _ping(host: str, port: int) -> None:
    """Ray Client's own first question, which it asks without a time limit. Raises RayAway."""
    channel = init_grpc_channel(f"{host}:{port}", options=GRPC_OPTIONS)
    messages: Any = ray_client_pb2
    question = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    try:
        stub = ray_client_pb2_grpc.RayletDriverStub(channel)  # type: ignore[no-untyped-call]
        stub.ClusterInfo(question, timeout=ANSWER_S, metadata=[("client_id", "knock")])
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise RayAway(f"{host}:{port} does not take the token: {error.details()}") from error
        raise RayAway(f"{host}:{port} does not answer: {error.code().name} {error.details()}") from error
    finally:
        channel.close()


@contextlib.contextmanager
def _given_up_after(limit_s: float) -> Iterator[None]:
    """Break Ray Client's connection when the block takes longer: it would wait for its server's start without end."""

    context: Any = ray_client.get_context()  # type: ignore[no-untyped-call]  # of this thread

    def break_off() -> None:
        worker = context.client_worker
        if worker is not None and worker.channel is not None:
            worker._in_shutdown = True  # it would try again for half a minute
            worker.channel.close()

    timer = threading.Timer(limit_s, break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
