"""Uploaded files, read and checked before anybody believes in them.

What has the right sha256 and is a usable picture is put under `blobs/` from the very bytes that were checked: the
upload itself can be overwritten at any moment.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from orchestrator.objects import Missing, Objects, blob_key, upload_key
from stylemodels.images import PictureInfo, inspect
from workers.patience import Patience

THREADS = 8
AHEAD = 12  # files that are read or wait to be packed
DECODERS = 2  # a decoded picture is up to 300 MB
MAX_FILE_BYTES = 128 * 1024 * 1024


class Accepted(NamedTuple):
    """A usable picture."""

    sha256: str
    content: bytes
    info: PictureInfo


class Refused(NamedTuple):
    """The file that was announced, but nothing to train on."""

    sha256: str
    reason: str


class Absent(NamedTuple):
    """Not the file that was announced: its version cannot be."""

    sha256: str
    reason: str


class TooLarge(Exception):
    """More bytes than any picture that would be taken."""


# rclone shows a file of no bytes for a moment after it has confirmed a `PUT` (about one in 2,000 under load).
REREAD_AFTER_S = (0.0, 0.2, 0.5, 1.0)


class Intake:
    """One tenant's files, by digest."""

    def __init__(self, tenant: str, known: set[str], objects: Objects, patience: Patience, *, max_pixels: int) -> None:
        """known: digests that are believed to lie under `blobs/`."""
        self.lost: set[str] = set()  # known ones that were not there as they should
        self._tenant, self._known, self._objects, self._patience = tenant, known, objects, patience
        self._max_pixels = max_pixels
        self._decoders = threading.Semaphore(DECODERS)

    def check(self, digests: Sequence[str]) -> Iterator[Accepted | Refused | Absent]:
        """Each file's fate, in the order of `digests`, a few of them in hand at a time."""
        waiting: deque[Future[Accepted | Refused | Absent]] = deque()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="intake") as threads:
            try:
                for sha256 in digests:
                    waiting.append(threads.submit(self._checked, sha256))
                    if len(waiting) >= AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _checked(self, sha256: str) -> Accepted | Refused | Absent:
        try:
            content = self._content(sha256)
        except TooLarge:
            return Refused(sha256, f"too large: a file may have {MAX_FILE_BYTES // 1024**2} MiB")
        if isinstance(content, Absent):
            return content
        try:
            with self._decoders:
                info = inspect(content, max_pixels=self._max_pixels)
        except ValueError as error:
            return Refused(sha256, str(error))
        if sha256 not in self._known or sha256 in self.lost:
            self._patience.call(partial(self._objects.put, blob_key(self._tenant, sha256), content))
        return Accepted(sha256, content, info)

    def _content(self, sha256: str) -> bytes | Absent:
        """The file from `blobs/` if it is known, else (or if it is not whole there) as it was uploaded."""
        if sha256 in self._known:
            content = self._read(blob_key(self._tenant, sha256))
            if content is not None and hashlib.sha256(content).hexdigest() == sha256:
                return content
            self.lost.add(sha256)
        absent = Absent(sha256, "was not uploaded")
        for pause_s in REREAD_AFTER_S:
            time.sleep(pause_s)
            content = self._read(upload_key(self._tenant, sha256))
            if content is None:
                continue
            found = hashlib.sha256(content).hexdigest()
            if found == sha256:
                return content
            absent = Absent(sha256, f"has the sha256 {found} as uploaded ({len(content)} bytes), not {sha256}")
        return absent

    def _read(self, key: str) -> bytes | None:
        try:
            return self._patience.call(partial(_limited, self._objects, key))
        except Missing:
            return None


def _limited(objects: Objects, key: str) -> bytes:
    pieces, size = [], 0
    for piece in objects.stream(key):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_FILE_BYTES:
            raise TooLarge
    return b"".join(pieces)
