"""Checkpoints in the object store: files, then the manifest, then (the spool's business) the row.

A row names the manifest's sha256 and the manifest names the files': what does not verify is damaged and never used.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orchestrator.objects import Corrupt, Missing, Objects, checkpoint_prefix
from orchestrator.store.tables import Checkpoint, Job
from stylemodels import checkpoint
from stylemodels.checkpoint import MANIFEST, Damaged, State
from workers.patience import Patience


class Candidate(NamedTuple):
    """A checkpoint that training may go on from."""

    job_id: str
    attempt: int
    step: int
    prefix: str
    manifest_sha256: str


def candidates(job: Job, ready: Sequence[Checkpoint]) -> list[Candidate]:
    """In the order to try: the job's own, newest first, then what a retry was made from."""
    own = [Candidate(job.id, c.attempt, c.step, c.prefix, c.manifest_sha256) for c in ready]
    start = job.start_from
    if start is None:
        return own
    return [*own, Candidate(start["job"], start["attempt"], start["step"], start["prefix"], start["manifest_sha256"])]


def upload(objects: Objects, patience: Patience, job: Job, state: State) -> dict[str, Any]:
    """Put a checkpoint's files up, the manifest last. Returns its row, for `queue.Batch.checkpoints`."""
    prefix = checkpoint_prefix(job.tenant_id, job.id, job.attempt, state.step)
    files = checkpoint.to_files(state)
    for name, content in files.items():
        patience.call(partial(objects.put, f"{prefix}/{name}", content))
    rows = [file_row(name, content) for name, content in files.items()]
    return {
        "step": state.step,
        "prefix": prefix,
        "manifest_sha256": hashlib.sha256(files[MANIFEST]).hexdigest(),
        "files": rows,
        "bytes": sum(row["size"] for row in rows),
    }


def download(objects: Objects, patience: Patience, candidate: Candidate) -> State:
    """Read a checkpoint back. Raises Damaged when anything is missing or other than its row says."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
        folder = Path(name)
        get = partial(objects.get, f"{candidate.prefix}/{MANIFEST}", sha256=candidate.manifest_sha256)
        try:
            manifest = patience.call(get)
            (folder / MANIFEST).write_bytes(manifest)
            for file in _plain_names(json.loads(manifest)["files"]):
                (folder / file).write_bytes(patience.call(partial(objects.get, f"{candidate.prefix}/{file}")))
        except (Missing, Corrupt) as error:
            raise Damaged(candidate.prefix, f"{type(error).__name__}: {error}") from error
        return checkpoint.load(folder)


def file_row(path: str, content: bytes) -> dict[str, Any]:
    """How SQL knows a file of a checkpoint or a model."""
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _plain_names(files: Mapping[str, Any]) -> list[str]:
    """The names in a manifest, none of which may lead out of its folder."""
    for name in files:
        if PurePosixPath(name).name != name:
            raise Damaged(MANIFEST, f"{name!r} is not a plain file name")
    return list(files)
