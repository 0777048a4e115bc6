"""Files by their sha256 on a worker's disk: shards, base models, pictures. Any number of processes share the folder.

A file appears under its digest only whole and checked. The longest unused go first when the folder grows too large;
who holds one open can go on reading it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orchestrator import meters
from orchestrator.objects import Corrupt

CHUNK_BYTES = 1 << 20
LEFTOVER_S = 86_400.0  # a part file this old has no writer any more
LOCKS = 64


class Entry(NamedTuple):
    path: Path
    size: int
    used_at: float  # seconds since 1970, the file's access time, which we set ourselves


class Cache:
    """A folder of at most `max_bytes`. Safe to share between threads and processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._verified: set[tuple[str, int, int, int]] = set()  # digest, inode, size, time of change

    def open(self, sha256: str, fetch: Callable[[], Iterable[bytes]]) -> BinaryIO:
        """The file with this digest, open for reading; `fetch` brings its bytes if it is not here.

        A file that was damaged on the disk is fetched again. Raises Corrupt when `fetch` brought other bytes, and
        whatever `fetch` raises.
        """
        if (found := self._verified_file(sha256)) is not None:
            meters.tally.add("cache_hits")
            return found
        meters.tally.add("cache_misses")
        with self._lock(sha256):
            if (found := self._verified_file(sha256)) is not None:  # another process was faster
                return found
            self._store(sha256, fetch())
            path = self._path(sha256)
            file = path.open("rb")  # before anybody makes room
        self._remember(sha256, file)
        self._make_room(keep=path)
        return file

    def read(self, sha256: str, fetch: Callable[[], Iterable[bytes]]) -> bytes:
        """The bytes with this digest; raises what `open` does."""
        with self.open(sha256, fetch) as file:
            return file.read()

    def add(self, sha256: str, path: Path) -> None:
        """Put in what this process has made; `path` is the file with that digest."""

        def chunks() -> Iterator[bytes]:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

        self.open(sha256, chunks).close()

    def size_bytes(self) -> int:
        return sum(entry.size for entry in self._entries())

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _verified_file(self, sha256: str) -> BinaryIO | None:
        """The file if it is here and whole. Its bytes are read once per process, as long as it does not change."""
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError:
            return None
        if _identity(sha256, file) not in self._verified:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                file.close()
                return None
            file.seek(0)
            self._remember(sha256, file)
        status = os.fstat(file.fileno())
        os.utime(file.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
        return file

    def _remember(self, sha256: str, file: BinaryIO) -> None:
        self._verified.add(_identity(sha256, file))

    def _store(self, sha256: str, chunks: Iterable[bytes]) -> None:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{sha256}.{os.getpid()}.part")
        digest = hashlib.sha256()
        try:
            with part.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise Corrupt(f"{sha256} was asked for, but {digest.hexdigest()} came")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, *, keep: Path) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry.used_at)
        surplus = sum(entry.size for entry in entries) - self.max_bytes
        for entry in entries:
            if surplus <= 0:
                return
            if entry.path != keep:
                entry.path.unlink(missing_ok=True)
                surplus -= entry.size

    def _entries(self) -> Iterator[Entry]:
        """What is here; parts that a killed process left are removed on the way."""
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            if path.suffix != ".part":
                yield Entry(path, status.st_size, status.st_atime)
            elif time.time() - status.st_mtime > LEFTOVER_S:
                path.unlink(missing_ok=True)

    @contextmanager
    def _lock(self, sha256: str) -> Iterator[None]:
        """One fetch of a file at a time, over all processes; the lock ends with its holder."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(locks / str(int(sha256[:8], 16) % LOCKS), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _identity(sha256: str, file: BinaryIO) -> tuple[str, int, int, int]:
    status = os.fstat(file.fileno())
    return sha256, status.st_ino, status.st_size, status.st_mtime_ns
