"""Backup and restore of everything that the service knows: rows of SQL and the objects that they name.

    FOLDER/manifest.json   written last: without it there is no backup
    FOLDER/rows/           a file a table, all of one moment (store/dump.py)
    FOLDER/objects/        the bucket, a file a key

Rows first, then objects: a row names objects that were there before it. What was deleted between the two, such as a
checkpoint that newer ones have replaced, is noticed, and then the rows are taken once more; keys are written once, so
the second round copies only what is new. Restoring goes the other way: objects, then the rows in one transaction, so
that nobody sees a row before its objects.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import stamina

from orchestrator.objects import OUTAGES, REFUSALS, Missing, Objects, blob_key, weights_key
from orchestrator.settings import Settings
from orchestrator.store import dump, migrate
from orchestrator.store.database import Database
from orchestrator.store.keys import ensure_admin

FORMAT = 1
ROUNDS = 5
THREADS = 8
CHUNK_BYTES = 1 << 20

# rclone answers some of many calls at once with an inner error; any store hiccups now and then.
PERSISTENT = stamina.retry(on=(*REFUSALS, *OUTAGES), attempts=6, timeout=60.0, wait_initial=0.05, wait_max=5.0)

Report = Callable[[str], None]


class BackupError(Exception):
    """There is no backup, or it cannot be restored here; the message says what to do."""


class Named(NamedTuple):
    """An object that a row needs."""

    key: str
    sha256: str | None


def back_up(settings: Settings, folder: Path, report: Report) -> list[str]:
    """Write a backup into `folder`, or bring the one that is there up to date; the service goes on meanwhile.

    Returns the keys of objects that rows need and that are not in the object store or have other bytes: none, unless
    something was lost before. Raises BackupError, OperationalError, or an error of the object store.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    db, objects = Database(settings.database_url), Objects(settings)
    try:
        with db.read() as tx:
            migrate.check(tx.connection())
            revision = migrate.revision_of(tx.connection())
        for round_ in range(1, ROUNDS + 1):
            counts = _take_rows(db, folder)
            listed = dict(objects.sizes(""))
            copied = _take_objects(objects, listed, folder)
            lacking = [named.key for named in _named(folder / "rows.new") if not _is_whole(folder, named)]
            report(f"round {round_}: {sum(counts.values())} rows, {copied} new objects, {len(lacking)} gone meanwhile")
            if not lacking:
                break
    finally:
        db.dispose()
    manifest = {"format": FORMAT, "revision": revision, "made_at": time.time(), "rows": counts, "lacking": lacking}
    _finish(folder, manifest)
    _drop_others(folder, {*listed, *(named.key for named in _named(folder / "rows"))})
    return lacking


def restore(settings: Settings, folder: Path, report: Report) -> None:
    """Put a backup into an empty database and an object store. The key of the settings' administrator works afterwards.

    Raises BackupError when the database is not empty, or the backup is incomplete, damaged or of a newer release.
    """
    manifest = _manifest(folder)
    migrate.upgrade(settings.database_url)
    db, objects = Database(settings.database_url), Objects(settings)
    try:
        with db.read() as tx:
            _refusing(lambda: dump.require_empty(tx))
        lacking = set(manifest["lacking"])
        damaged = [n.key for n in _named(folder / "rows") if n.key not in lacking and not _is_whole(folder, n)]
        if damaged:
            raise BackupError(f"{len(damaged)} files of the backup are missing or damaged, the first is {damaged[0]}")
        objects.ensure_bucket()
        report(f"{_put_objects(objects, folder)} objects are in place")
        with db.write() as tx:
            counts = _refusing(lambda: dump.restore(tx, folder / "rows"))
            if settings.admin_key is not None:
                ensure_admin(tx, settings.admin_key.get_secret_value())
        report(f"{sum(counts.values())} rows are in place")
    finally:
        db.dispose()


def _take_rows(db: Database, folder: Path) -> dict[str, int]:
    shutil.rmtree(folder / "rows.new", ignore_errors=True)
    return dump.write(db, folder / "rows.new")


def _take_objects(objects: Objects, listed: Mapping[str, int], folder: Path) -> int:
    """Copy what is in the bucket (key -> bytes) and not here; how many were new."""

    @PERSISTENT
    def copy(found: tuple[str, int]) -> bool:
        path = _path(folder, found[0])
        if path.exists() and path.stat().st_size == found[1]:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                file.writelines(objects.stream(found[0]))
        except Missing:
            part.unlink()
            return False
        part.replace(path)
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(copy, listed.items()))


def _put_objects(objects: Objects, folder: Path) -> int:
    root = folder / "objects"
    there = dict(objects.sizes(""))

    @PERSISTENT
    def put(path: Path) -> None:
        key = path.relative_to(root).as_posix()
        if there.get(key) != path.stat().st_size:
            objects.put_file(key, path)

    files = [path for path in root.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(1 for _ in pool.map(put, files))


def _finish(folder: Path, manifest: dict[str, Any]) -> None:
    """From here on this is the backup."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "rows", ignore_errors=True)
    (folder / "rows.new").rename(folder / "rows")
    part = folder / "manifest.json.part"
    part.write_text(json.dumps(manifest, indent=2) + "\n")
    part.rename(folder / "manifest.json")


def _drop_others(folder: Path, kept: Container[str]) -> None:
    """Files of an earlier backup whose objects are gone, and parts of copies that were cut off.

    What the rows name stays, though its object may be gone since an earlier round copied it.
    """
    root = folder / "objects"
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path.relative_to(root).as_posix() not in kept:
            path.unlink()


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    except FileNotFoundError:
        raise BackupError(f"{folder} holds no complete backup: it has no manifest.json") from None
    if manifest["format"] != FORMAT:
        raise BackupError(f"{folder} is a backup of format {manifest['format']}, this release reads {FORMAT}")
    return manifest


def _named(rows: Path) -> Iterator[Named]:
    """Every object that must be there for the rows to be worth something."""
    for row in dump.read(rows, "blobs"):
        yield Named(blob_key(row["tenant_id"], row["sha256"]), row["sha256"])
    for row in dump.read(rows, "encoder_weights"):
        yield Named(weights_key(row["sha256"]), row["sha256"])
    for row in dump.read(rows, "samples"):
        yield Named(row["key"], None)
    for row in dump.read(rows, "dataset_versions"):
        if row["status"] == "ready":
            yield Named(f"{row['prefix']}/manifest.json", None)
    for row in dump.read(rows, "checkpoints"):
        if row["status"] == "ready":
            yield Named(f"{row['prefix']}/manifest.json", row["manifest_sha256"])
            yield from _files(row)
    for row in dump.read(rows, "model_versions"):
        yield from _files(row)


def _files(row: dict[str, Any]) -> Iterable[Named]:
    return (Named(f"{row['prefix']}/{file['path']}", file["sha256"]) for file in row["files"])


def _is_whole(folder: Path, named: Named) -> bool:
    try:
        with _path(folder, named.key).open("rb") as file:
            return named.sha256 is None or hashlib.file_digest(file, "sha256").hexdigest() == named.sha256
    except FileNotFoundError:
        return False


def _path(folder: Path, key: str) -> Path:
    """Raises BackupError for a key that would lead out of the folder."""
    path = folder / "objects" / key
    if ".." in path.parts or key.startswith("/"):
        raise BackupError(f"the object store has a key that is no path: {key!r}")
    return path


def _refusing(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except dump.NotRestorable as error:
        raise BackupError(str(error)) from error
