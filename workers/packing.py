"""Pictures into shards: plain tar files of about 64 MiB, the same bytes for the same pictures."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

SHARD_BYTES = 64 * 1024 * 1024
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WebP": "webp"}


class Place(NamedTuple):
    """Where a picture's bytes lie."""

    shard: int
    offset: int


class Packer:
    """Writes shards into a folder and hands each over when it is full."""

    def __init__(self, folder: Path, ship: Callable[[Path, dict[str, Any]], None]) -> None:
        """ship: given the file of a whole shard and its entry {"path", "size", "sha256"}; the file goes afterwards."""
        self.shards: list[dict[str, Any]] = []
        self._folder, self._ship = folder, ship
        self._tar: tarfile.TarFile | None = None

    def add(self, sha256: str, format: str, content: bytes) -> Place:
        """Append a picture; they come in the order of their digests."""
        if self._tar is not None and self._tar.offset + len(content) > SHARD_BYTES:
            self._finish()
        if self._tar is None:
            # ustar: one header block a member, so the data's offset is known. TarInfo's defaults name no time or user.
            self._tar = tarfile.open(self._path(), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  closed by _finish
        member = tarfile.TarInfo(f"{sha256}.{EXTENSIONS[format]}")
        member.size = len(content)
        place = Place(len(self.shards), self._tar.offset + tarfile.BLOCKSIZE)
        self._tar.addfile(member, BytesIO(content))
        return place

    def close(self) -> None:
        """Hand over the last shard."""
        if self._tar is not None:
            self._finish()

    def _finish(self) -> None:
        assert self._tar is not None
        self._tar.close()
        self._tar = None
        path = self._path()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entry = {"path": path.name, "size": path.stat().st_size, "sha256": digest}
        self._ship(path, entry)
        self.shards.append(entry)
        path.unlink()

    def _path(self) -> Path:
        return self._folder / f"shard-{len(self.shards):05}.tar"
