"""An ingest: the files of a commit become a dataset version that jobs can train on.

Checked one by one, without doubles, packed into shards in the order of their digests; then the manifest, then one
transaction. A picture that cannot be used is refused alone; a file that is not what was announced rejects the version.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.objects import dataset_prefix
from orchestrator.store import datasets, ingests, queue
from orchestrator.store.queue import Moved
from orchestrator.store.tables import DatasetVersion
from workers.data import MANIFEST, content_hash
from workers.endings import Superseded
from workers.intake import Absent, Accepted, Intake, Refused
from workers.packing import Packer
from workers.work import Work

TELL_EVERY_S = 5.0
NAMED_FILES = 5  # in a rejection


@dataclass
class Listing:
    """The files of a commit: who stands for which digest, and who is refused already by its path."""

    paths: dict[str, list[str]] = field(default_factory=dict)  # sha256 -> its paths
    class_of: dict[str, str] = field(default_factory=dict)  # sha256 -> class, of a labelled dataset
    folders: set[str] = field(default_factory=set)  # its classes, with or without a usable picture
    refused: dict[str, str] = field(default_factory=dict)  # path -> reason

    def refuse(self, sha256: str, reason: str) -> None:
        self.refused |= dict.fromkeys(self.paths.pop(sha256), reason)


def run(work: Work) -> Moved:
    """Do the whole ingest. Raises Ended, or ValueError when there is no such version."""
    name, number = str(work.job.config["name"]), int(work.job.config["version"])
    version, known = work.patience.call(partial(_read, work, name, number))
    work.begin(step=0, total_steps=len(version.files))
    listing = listed(version.files, labelled=version.kind == "labelled")
    work.spool.log(f"{len(version.files)} files, {len(listing.paths)} different ones to check, {len(known)} known")
    intake = Intake(
        work.job.tenant_id,
        known,
        work.platform.objects,
        work.patience,
        max_pixels=work.platform.settings.max_picture_mpx * 1_000_000,
    )
    build = Build(work, version, listing)
    with TemporaryDirectory(prefix="ingest-") as folder:
        build.pack(intake, Path(folder))
    values = build.outcome()
    work.spool.log(values["error"] or f"{values['count']} pictures are in, {len(values['refused'])} files were refused")
    work.spool.drain()
    moved = work.patience.call(partial(_conclude, work, version, values, build, intake))
    if moved is None:
        raise Superseded
    return moved


def listed(files: Sequence[Mapping[str, str]], *, labelled: bool) -> Listing:
    """Sort out what paths alone decide. Of a labelled dataset the first folder of a path is the class.

    The same rules as `stylemodels.data.FolderSource` has for a folder on a laptop.
    """
    listing = Listing()
    for file in sorted(files, key=lambda file: PurePosixPath(file["path"])):
        path, sha256 = file["path"], file["sha256"]
        folder, *rest = PurePosixPath(path).parts
        if labelled and rest:
            listing.folders.add(folder)
        if labelled and not rest:
            listing.refused[path] = "in no class: it lies beside the folders of the classes"
        elif labelled and listing.class_of.setdefault(sha256, folder) != folder:
            listing.refused[path] = f"the same picture is in class {listing.class_of[sha256]}"
        else:
            listing.paths.setdefault(sha256, []).append(path)
    return listing


class Build:
    """The version as it grows."""

    def __init__(self, work: Work, version: DatasetVersion, listing: Listing) -> None:
        self.work, self.version, self.listing = work, version, listing
        self.prefix = dataset_prefix(work.job.tenant_id, version.name, version.version, work.job.attempt)
        self.pictures: list[dict[str, Any]] = []
        self.absent: list[str] = []
        self._told_at = time.monotonic()

    @property
    def classes(self) -> list[str]:
        return sorted({self.listing.class_of[p["sha256"]] for p in self.pictures if self.version.kind == "labelled"})

    def pack(self, intake: Intake, folder: Path) -> None:
        """Check every file, ship the shards and the manifest."""
        packer = Packer(folder, self._ship)
        digests = sorted(self.listing.paths)
        for done, checked in enumerate(intake.check(digests), start=1):
            self.work.spool.raise_if_over()
            match checked:
                case Accepted(sha256, content, info):
                    shard, offset = packer.add(sha256, info.format, content)
                    size = {"size": len(content), "width": info.width, "height": info.height}
                    self.pictures.append({"sha256": sha256, **size, "shard": shard, "offset": offset})
                case Refused(sha256, reason):
                    self.listing.refuse(sha256, reason)
                case Absent(sha256, reason):
                    self.absent.append(f"{self.listing.paths[sha256][0]} {reason}")
            self._tell(done, len(digests))
        packer.close()
        self._put_manifest(packer.shards)

    def outcome(self) -> dict[str, Any]:
        """The columns of the version's row."""
        refused = [{"path": path, "reason": reason} for path, reason in sorted(self.listing.refused.items())]
        if (error := self._error(refused)) is not None:
            return {"status": "rejected", "error": error, "refused": refused}
        accepted = [picture["sha256"] for picture in self.pictures]
        return {
            "status": "ready",
            "error": None,
            "refused": refused,
            "hash": content_hash(self.pictures, self.classes),
            "count": len(self.pictures),
            "bytes": sum(picture["size"] for picture in self.pictures),
            "classes": self.classes,
            "class_counts": self._class_counts() if self.version.kind == "labelled" else None,
            "paths": {path: sha256 for sha256 in accepted for path in self.listing.paths[sha256]},
            "prefix": self.prefix,
        }

    def _class_counts(self) -> dict[str, int]:
        return dict(Counter(self.listing.class_of[picture["sha256"]] for picture in self.pictures))

    def _error(self, refused: Sequence[Mapping[str, str]]) -> str | None:
        if self.absent:
            more = len(self.absent) - NAMED_FILES
            return "; ".join(self.absent[:NAMED_FILES]) + (f"; and {more} more" if more > 0 else "")
        if not self.pictures:
            first = f", e.g. {refused[0]['path']}: {refused[0]['reason']}" if refused else ""
            return f"no usable picture is left: {len(refused)} files were refused{first}"
        if empty := sorted(self.listing.folders.difference(self.classes)):
            return f"there is no usable picture of class {empty[0]!r}"
        return None

    def _ship(self, path: Path, entry: Mapping[str, Any]) -> None:
        objects, cache = self.work.platform.objects, self.work.platform.cache
        self.work.patience.call(partial(objects.put_file, f"{self.prefix}/{entry['path']}", path))
        if entry["size"] <= cache.max_bytes // 2:
            cache.add(entry["sha256"], path)  # a job on this node starts without fetching it

    def _put_manifest(self, shards: Sequence[Mapping[str, Any]]) -> None:
        if self.absent or not self.pictures:
            return
        classes = self.classes
        if self.version.kind == "labelled":
            for picture in self.pictures:
                picture["label"] = classes.index(self.listing.class_of[picture["sha256"]])
        manifest = {
            "kind": self.version.kind,
            "hash": content_hash(self.pictures, classes),
            "classes": classes,
            "count": len(self.pictures),
            "pictures": self.pictures,
            "shards": list(shards),
        }
        content = json.dumps(manifest).encode()
        self.work.patience.call(
            partial(self.work.platform.objects.put, f"{self.prefix}/{MANIFEST}", content, "application/json")
        )

    def _tell(self, done: int, of: int) -> None:
        self.work.spool.at_step(done)
        if time.monotonic() - self._told_at > TELL_EVERY_S:
            self._told_at = time.monotonic()
            self.work.spool.log(f"{done} of {of} files checked")


def _read(work: Work, name: str, number: int) -> tuple[DatasetVersion, set[str]]:
    tenant = work.job.tenant_id
    with work.platform.db.read() as tx:
        version = ingests.version_of(tx, tenant, name, number)
        if version is None:
            raise ValueError(f"there is no version {number} of dataset {name}")
        return version, datasets.known_blobs(tx, tenant, (file["sha256"] for file in version.files))


def _conclude(
    work: Work, version: DatasetVersion, values: Mapping[str, Any], build: Build, intake: Intake
) -> Moved | None:
    tenant = work.job.tenant_id
    with work.platform.db.write() as tx:
        moved = queue.finish(tx, work.ticket, None)
        if moved is not None:
            ingests.conclude(tx, tenant, version.name, version.version, values)
            ingests.forget_blobs(tx, tenant, intake.lost)
            ingests.add_blobs(tx, tenant, {p["sha256"]: p["size"] for p in build.pictures})
        return moved
