"""A dataset version in S3 as a source of training pictures: shards on the local disk, fetched ahead."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

from orchestrator.objects import Corrupt, Objects
from workers.cache import Cache
from workers.patience import Patience

MANIFEST = "manifest.json"


class ShardSource:
    """The pictures of a ready dataset version, in the order of their digests (`stylemodels.data.PictureSource`).

    Shards come from the disk cache, else from S3; those that fit into half the cache are fetched ahead by a thread.
    Raises Missing or Corrupt when the version in S3 is not the one that was pinned.
    """

    def __init__(self, pinned: Mapping[str, Any], objects: Objects, cache: Cache, patience: Patience) -> None:
        """pinned: {"hash", "prefix", …}, as a job's `datasets` has it."""
        self._prefix = str(pinned["prefix"])
        self._objects, self._cache, self._patience = objects, cache, patience
        manifest = read_manifest(objects, patience, self._prefix, str(pinned["hash"]))
        pictures = manifest["pictures"]
        self.digests: Sequence[str] = [p["sha256"] for p in pictures]
        self.classes: Sequence[str] = manifest["classes"]
        self.labels: Sequence[int] | None = [p["label"] for p in pictures] if manifest["kind"] == "labelled" else None
        self._places = [(p["shard"], p["offset"], p["size"]) for p in pictures]
        self._shards = manifest["shards"]
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._ahead.submit(self._fetch_ahead)

    def read(self, index: int) -> bytes:
        """The file of a picture as it was uploaded."""
        shard, offset, size = self._places[index]
        with self._lock:  # nobody closes the file meanwhile
            data = os.pread(self._file(shard).fileno(), size, offset)
        if len(data) != size:
            raise Corrupt(f"{self._prefix}: shard {shard} ends in the middle of picture {self.digests[index]}")
        return data

    def close(self) -> None:
        self._closed = True
        self._ahead.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _file(self, shard: int) -> BinaryIO:
        """The open shard; the longest unused are closed, so that the cache can give their room away."""
        if shard not in self._open:
            self._open[shard] = self._fetched(shard)
        self._open.move_to_end(shard)
        while len(self._open) > 1 and self._size(self._open) > self._cache.max_bytes // 2:
            self._open.popitem(last=False)[1].close()
        return self._open[shard]

    def _fetched(self, shard: int) -> BinaryIO:
        entry = self._shards[shard]
        fetch = partial(self._objects.stream, f"{self._prefix}/{entry['path']}")
        return self._patience.call(partial(self._cache.open, entry["sha256"], fetch))

    def _size(self, shards: Iterable[int]) -> int:
        return sum(self._shards[shard]["size"] for shard in shards)

    def _fetch_ahead(self) -> None:
        for shard in range(len(self._shards)):
            if self._closed or self._size(range(shard + 1)) > self._cache.max_bytes // 2:
                return
            try:
                self._fetched(shard).close()
            except Exception:
                return  # whoever reads this shard meets the same error, and has somebody to tell


def read_manifest(objects: Objects, patience: Patience, prefix: str, pinned_hash: str) -> dict[str, Any]:
    """A dataset version's manifest, checked against the hash that a job pinned. Raises Missing or Corrupt."""
    key = f"{prefix}/{MANIFEST}"
    try:
        manifest: dict[str, Any] = json.loads(patience.call(partial(objects.get, key)))
        found = content_hash(manifest["pictures"], manifest["classes"])
    except (ValueError, LookupError, TypeError) as error:
        raise Corrupt(f"{key} is not the manifest of a dataset: {error}") from error
    if found != pinned_hash:
        raise Corrupt(f"{key} lists pictures with the hash {found}, not {pinned_hash}")
    return manifest


def content_hash(pictures: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """What a dataset's pictures are: sha256 over their digests in order, each with its class if there are classes."""
    digest = hashlib.sha256()
    for picture in pictures:
        label = f" {classes[picture['label']]}\n" if classes else ""
        digest.update(f"{picture['sha256']}{label}".encode())
    return digest.hexdigest()
