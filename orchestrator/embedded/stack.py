"""What a data directory keeps from its first start on: ports and secrets, in `stack.json` (0600), and its paths.

Presigned urls hold the object store's port and running workers hold all of it, so nothing is chosen twice.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from orchestrator.embedded import ports
from orchestrator.settings import Settings

SOCKET_ROOT_BYTES = 20  # of the 107 that a socket's path may have, we and Ray add 81


class StackError(Exception):
    """The stack cannot be started or found; the message says what to do."""


class Ports(BaseModel):
    api: int
    redis: int
    s3: int
    ray: int


class Kept(BaseModel):
    """The content of `stack.json`. Clients on this machine read `url` and `api_key` from it."""

    id: str
    url: str
    api_key: str
    ports: Ports
    redis_password: str
    s3_access_key: str
    s3_secret_key: str
    ray_token: str


class Stack:
    """A data directory that has been started at least once."""

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder = folder
        self.kept = kept

    @property
    def mark(self) -> str:
        """The environment entry by which this folder's processes are known; a copied folder has another one."""
        inode = self.folder.stat()
        return f"STYLEFOUNDRY_STACK={self.kept.id}-{inode.st_dev:x}-{inode.st_ino:x}"

    def part_mark(self, part: str) -> str:
        """The environment entry by which the processes of one part are known."""
        return f"{self.mark.replace('_STACK', '_PART')}-{part}"

    @property
    def ray_folder(self) -> Path:
        """Ray's working folder, with its sessions in it: a short path whatever the data directory's is."""
        root = tempfile.gettempdir()
        name = "sf-" + hashlib.sha256(self.mark.encode()).hexdigest()[:10]
        return Path(root if len(os.fsencode(root)) <= SOCKET_ROOT_BYTES else "/tmp") / name

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor as long as it lives."""
        return self.folder / "supervisor.lock"

    @property
    def running(self) -> Path:
        """Process ids of the parts, kept up to date by the supervisor."""
        return self.folder / "running.json"

    def settings(self, given: Settings) -> Settings:
        """What the parts get: `given`, and where it names no service of its own, the embedded ones."""
        kept, named = self.kept, given.model_fields_set
        values = {name: getattr(given, name) for name in named}
        ours: dict[str, Any] = {
            "database_url": f"sqlite:///{self.folder / 'stylefoundry.db'}",
            "redis_url": SecretStr(f"redis://:{kept.redis_password}@127.0.0.1:{kept.ports.redis}/0"),
            "ray_address": f"ray://127.0.0.1:{kept.ports.ray}",
            "admin_key": SecretStr(kept.api_key),
            "cache_dir": self.folder / "cache",
            "weights_dir": self.folder / "weights",
            "log_json": False,
        }
        if "s3_url" not in named:
            values |= {
                "s3_url": f"http://127.0.0.1:{kept.ports.s3}",
                "s3_access_key": kept.s3_access_key,
                "s3_secret_key": SecretStr(kept.s3_secret_key),
            }
        return Settings(**(ours | values | {"port": kept.ports.api}))

    def use_port(self, port: int) -> None:
        """Serve the API on another port from now on."""
        self.kept.ports.api = port
        self.kept.url = f"http://127.0.0.1:{port}"

    def save(self) -> None:
        write_private(self.folder / "stack.json", self.kept.model_dump_json(indent=2) + "\n")


def find(folder: Path) -> Stack | None:
    """The stack of a data directory; None where none was ever started. Raises StackError for a damaged one."""
    folder = folder.absolute()
    path = folder / "stack.json"
    try:
        return Stack(folder, Kept.model_validate_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StackError(f"{path} is damaged: {error}") from error


def find_or_create(folder: Path, preferred_port: int) -> Stack:
    """The stack of a data directory; a new one gets free ports, `preferred_port` for the API if that is free."""
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (found := find(folder)) is not None:
        return found
    chosen: set[int] = {preferred_port}
    for _ in range(3):
        chosen.add(ports.free_port(apart_from=chosen))
    redis, s3, ray = sorted(chosen - {preferred_port})
    api = preferred_port if ports.is_free(preferred_port) else ports.free_port(apart_from=chosen)
    kept = Kept(
        id=secrets.token_hex(8),
        url=f"http://127.0.0.1:{api}",
        api_key=f"sf_{secrets.token_urlsafe(32)}",
        ports=Ports(api=api, redis=redis, s3=s3, ray=ray),
        redis_password=secrets.token_hex(16),
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=secrets.token_hex(20),
        ray_token=secrets.token_hex(32),
    )
    stack = Stack(folder, kept)
    stack.save()
    return stack


def read_settings() -> Settings:
    """The user's settings from environment and file. Raises StackError that names what is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"STYLEFOUNDRY_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise StackError("settings: " + "; ".join(lines)) from error


def as_text(settings: Settings) -> dict[str, str]:
    """Every setting that has a value, in the form in which `Settings(**…)` reads it again."""
    given = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            given[name] = str(value.absolute() if isinstance(value, Path) else value)
    return given


def environment(settings: Settings) -> dict[str, str]:
    """The `STYLEFOUNDRY_…` variables that make another process read the same settings."""
    return {f"STYLEFOUNDRY_{name.upper()}": value for name, value in as_text(settings).items()}


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for nobody else to read."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.rename(path)


def private_folder(path: Path) -> None:
    """Make a folder under a path that everybody may write to. Raises StackError when somebody else was first."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StackError(f"{path} is not a folder of ours alone: remove it and start again")
