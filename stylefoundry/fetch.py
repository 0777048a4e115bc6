"""A model's files, from the object store into a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx2

from stylefoundry.errors import Error, Unreachable
from stylefoundry.transport import waits
from stylefoundry.types import Model, ModelFile

CHUNK_BYTES = 1 << 20
TRIES = 5


def fetch(
    model: Model, again: Callable[[], Model], folder: Path, *, progress: Callable[[int, int], None] | None
) -> Path:
    """See `Client.fetch_model`. again: asks for the model once more, with fresh urls."""
    if folder.is_dir() and all(_is_there(folder, file) for file in model.files):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and holds something else than {model.name}@{model.version}")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    total = sum(file.size for file in model.files)
    done = 0
    try:
        with httpx2.Client(timeout=httpx2.Timeout(120, connect=5)) as store:
            for file in model.files:
                _download(store, file, again, _inside(partial, file.path))
                done += file.size
                if progress is not None:
                    progress(done, total)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(folder)  # an empty folder that was there is replaced
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _download(store: httpx2.Client, file: ModelFile, again: Callable[[], Model], target: Path) -> None:
    """One file, checked against its sha256. Raises Unreachable after the last try."""
    target.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    pauses = waits()
    for _ in range(TRIES):
        try:
            reason = _copy(store, file.url, target) or _difference(target, file)
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
        if not reason:
            return
        time.sleep(next(pauses))
        file = next((fresh for fresh in again().files if fresh.path == file.path), file)
    raise Unreachable(f"{file.path} could not be fetched from {file.url.partition('?')[0]} in {TRIES} tries: {reason}")


def _copy(store: httpx2.Client, url: str, target: Path) -> str:
    """Download; what went wrong, or nothing."""
    with store.stream("GET", url) as answer:
        if not answer.is_success:
            return f"HTTP {answer.status_code}"
        with target.open("wb") as out:
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                out.write(chunk)
    return ""


def _difference(path: Path, file: ModelFile) -> str:
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return "" if sha256 == file.sha256 else f"its sha256 is {sha256}, not {file.sha256}"


def _is_there(folder: Path, file: ModelFile) -> bool:
    path = _inside(folder, file.path)
    return path.is_file() and path.stat().st_size == file.size and not _difference(path, file)


def _inside(folder: Path, path: str) -> Path:
    """`path`, as the service names it, below `folder`: never beside it, whatever the service says."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute():
        raise Error(f"the service names a file {path!r}, which would lie outside {folder}")
    return folder.joinpath(*parts)
