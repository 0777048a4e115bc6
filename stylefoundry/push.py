"""A folder of pictures becomes a dataset version: hash, ask what is missing, upload that, commit, wait.

Bytes go from here to the object store by presigned urls; what the service already holds is not sent again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import httpx2

from stylefoundry.errors import Rejected, Unreachable
from stylefoundry.reading import read
from stylefoundry.transport import Transport, segment, waits
from stylefoundry.types import Dataset

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
THREADS = 8
AT_ONCE = 500  # files per question about what is missing, so that a url is used well before it expires
TRIES = 4
LOOK_AGAIN_S = (0.1, 2.0)

# What `progress` is told: the stage (hash, upload: in bytes; ingest: in versions), how much is done, of how much.
Progress = Callable[[str, int, int], None]


class LocalFile(NamedTuple):
    """A picture on this machine."""

    path: str  # relative to the folder, with /
    source: Path
    size: int


class Hashed(NamedTuple):
    """A picture whose content is known."""

    path: str
    source: Path
    size: int
    sha256: str

    def announcement(self) -> dict[str, object]:
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def push(
    transport: Transport, name: str, folder: Path, *, kind: str, wait_ready: bool, progress: Progress | None
) -> Dataset:
    """See `Client.push_dataset`."""
    report: Progress = progress or (lambda stage, done, total: None)
    files = hashed(pictures_in(folder, kind), report)
    with httpx2.Client(timeout=httpx2.Timeout(120, connect=5)) as store:
        upload_missing(transport, store, name, files, report)
    body = {"kind": kind, "files": [{"path": file.path, "sha256": file.sha256} for file in files]}
    committed = transport.create(f"/v1/datasets/{segment(name)}/versions", body)
    where = f"/v1/datasets/{segment(name)}/versions/{committed['version']}"
    if not wait_ready:
        return read(Dataset, transport.get(where))
    report("ingest", 0, 1)
    dataset = ingested(transport, where)
    report("ingest", 1, 1)
    return dataset


def pictures_in(folder: Path, kind: str) -> list[LocalFile]:
    """The pictures below `folder`, in the order of their paths; hidden files and other kinds of file are left out.

    Raises ValueError where there is no such folder, no picture in it, a name that no service could store, or (labelled)
    a picture that lies in no subfolder, which would be its class.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    found = []
    for source in sorted(folder.rglob("*")):
        parts = source.relative_to(folder).parts
        if source.suffix.lower() not in PICTURES or any(part.startswith(".") for part in parts) or not source.is_file():
            continue
        path = "/".join(parts)
        if not path.isprintable():
            raise ValueError(f"{source}: the name {path!r} has characters that cannot be stored; rename the file")
        if kind == "labelled" and len(parts) < 2:
            raise ValueError(f"{source}: a labelled dataset takes its classes from subfolders; this picture is in none")
        found.append(LocalFile(path, source, source.stat().st_size))
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return found


def hashed(files: Sequence[LocalFile], report: Progress) -> list[Hashed]:
    """The files with their sha256, in the same order."""
    total = sum(file.size for file in files)
    done = 0
    result = []
    with ThreadPoolExecutor(THREADS) as threads:  # hashlib lets go of the interpreter lock
        for file, sha256 in zip(files, threads.map(sha256_of, files), strict=True):
            result.append(Hashed(*file, sha256))
            done += file.size
            report("hash", done, total)
    return result


def sha256_of(file: LocalFile) -> str:
    with file.source.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def upload_missing(
    transport: Transport, store: httpx2.Client, name: str, files: Sequence[Hashed], report: Progress
) -> None:
    """Send every content that the service does not hold, once each."""
    distinct = list({file.sha256: file for file in files}.values())
    total = sum(file.size for file in distinct)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report("upload", done, total)

    with ThreadPoolExecutor(THREADS) as threads:
        for some in _portions(distinct, AT_ONCE):
            places = places_for(transport, name, some)
            missing = [(file, place) for file, place in zip(some, places, strict=True) if place is not None]
            count(sum(file.size for file in some) - sum(file.size for file, _ in missing))
            sent = {threads.submit(upload, transport, store, name, file, place): file.size for file, place in missing}
            try:
                for future in as_completed(sent):
                    future.result()
                    count(sent[future])
            except BaseException:  # Ctrl-C too: what has not begun is not begun any more
                threads.shutdown(wait=False, cancel_futures=True)
                raise


class Place(NamedTuple):
    """Where a file may be put."""

    url: str
    headers: dict[str, str]


def places_for(transport: Transport, name: str, files: Sequence[Hashed]) -> list[Place | None]:
    """Fresh urls for `files`, in their order; None for what the service holds already."""
    body = {"files": [file.announcement() for file in files]}
    answer = transport.request("POST", f"/v1/datasets/{segment(name)}/uploads", json=body).json()
    return [None if item.get("exists") else Place(item["url"], item.get("headers") or {}) for item in answer["files"]]


def upload(transport: Transport, store: httpx2.Client, name: str, file: Hashed, place: Place | None) -> None:
    """Put one file, each try under a url of its own.

    Raises ValueError when the file is no longer what it was when it was hashed, Unreachable after the last try.
    """
    data = file.source.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ValueError(f"{file.source} changed while it was pushed; push again")
    reason = ""
    pauses = waits()
    for _ in range(TRIES):
        if place is None:
            return
        try:
            answer = store.put(place.url, content=data, headers=place.headers)
            if answer.is_success:
                return
            reason = f"HTTP {answer.status_code}"
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
        time.sleep(next(pauses))
        place = places_for(transport, name, [file])[0]
    raise Unreachable(f"{file.path} could not be uploaded to {place_of(place)} in {TRIES} tries: {reason}")


def place_of(place: Place | None) -> str:
    """The object store's address, without the signature that a message must not show."""
    return "the object store" if place is None else place.url.partition("?")[0]


def ingested(transport: Transport, where: str) -> Dataset:
    """Wait until the version is ready. Raises Rejected."""
    pause_s, longest_s = LOOK_AGAIN_S
    while True:
        dataset = read(Dataset, transport.get(where))
        if dataset.status == "ready":
            return dataset
        if dataset.status == "rejected":
            raise Rejected(dataset)
        time.sleep(pause_s)
        pause_s = min(longest_s, 1.5 * pause_s)


def _portions(files: Sequence[Hashed], size: int) -> Iterator[Sequence[Hashed]]:
    for first in range(0, len(files), size):
        yield files[first : first + size]
