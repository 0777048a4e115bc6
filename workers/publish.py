"""A finished task as a version of a model: files, card and pictures first, then one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.exc import IntegrityError

from orchestrator.code import code_digest
from orchestrator.objects import Objects, log_key, model_prefix
from orchestrator.store import attempts, queue
from orchestrator.store.database import db_now
from orchestrator.store.queue import Moved
from orchestrator.store.tables import Job, ModelVersion
from stylemodels.export import CARD_FILE, Card, write_model
from stylemodels.method import Method, Task
from workers.endings import Superseded
from workers.patience import Patience
from workers.work import Work

CONTENT_TYPES = {".json": "application/json", ".md": "text/markdown", ".jpg": "image/jpeg"}


def publish(work: Work, task: Task, method: Method, samples: Mapping[str, bytes]) -> Moved:
    """Upload, then make the version and end the job in one transaction.

    samples: the last preview grid as JPEGs by name.
    Raises Superseded when the ticket no longer counts; nothing was published then.
    """
    job, objects, patience = work.job, work.platform.objects, work.patience
    with TemporaryDirectory(prefix="model-") as name:
        folder = Path(name)
        description = write_model(folder, task, method, job.task, _card(work), onnx=task.config.onnx)
        _add_samples(folder, samples)
        prefix = model_prefix(job.tenant_id, job.id, job.attempt)
        files = [_upload(objects, patience, prefix, folder, path) for path in _files(folder)]
    patience.call(partial(put_log, objects, job, work.spool.log_bytes()))
    while True:
        try:
            moved = patience.call(partial(_finish, work, files, dict(description.config)))
        except IntegrityError:
            continue  # another job took this version's number at the same moment
        if moved is None:
            raise Superseded
        return moved


def _finish(work: Work, files: list[dict[str, Any]], config: dict[str, Any]) -> Moved | None:
    job = work.job
    version = ModelVersion(
        tenant_id=job.tenant_id,
        name=job.publish_as,
        version=0,
        job_id=job.id,
        method=job.method,
        task=job.task,
        prefix=model_prefix(job.tenant_id, job.id, job.attempt),
        files=files,
        config=config,
        lineage=lineage(job),
        created_at=db_now(),
    )
    with work.platform.db.write() as tx:
        return queue.finish(tx, work.ticket, version)


def _upload(objects: Objects, patience: Patience, prefix: str, folder: Path, path: Path) -> dict[str, Any]:
    relative = path.relative_to(folder).as_posix()
    content_type = CONTENT_TYPES.get(path.suffix, "application/octet-stream")
    patience.call(partial(objects.put_file, f"{prefix}/{relative}", path, content_type))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": relative, "size": path.stat().st_size, "sha256": digest}


def _card(work: Work) -> Card:
    origin = lineage(work.job)
    return Card(
        name=work.job.publish_as,
        job=work.job.id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        seed=work.job.seed,
        datasets=origin["datasets"],
        base_model=origin["base_model"] or "",
        losses=work.patience.call(partial(_last_terms, work)),
    )


def _last_terms(work: Work) -> dict[str, float]:
    with work.platform.db.read() as tx:
        return attempts.last_terms(tx, work.job.id)


def lineage(job: Job) -> dict[str, Any]:
    """What a model was made from: a job, dataset versions by role, a base model, a version of the code."""
    base = job.base_model
    return {
        "job": job.id,
        "datasets": {role: f"{pinned['name']}@{pinned['version']}" for role, pinned in job.datasets.items()},
        "base_model": None if base is None else f"{base['name']}@{base['version']}",
        "code": code_digest(),
    }


def put_log(objects: Objects, job: Job, lines: bytes) -> None:
    """An attempt's log lines in S3, where they outlive the job's events."""
    objects.put(log_key(job.tenant_id, job.id, job.attempt), lines, "application/x-ndjson")


def _add_samples(folder: Path, samples: Mapping[str, bytes]) -> None:
    """The preview grid beside the model, and shown on its card."""
    if not samples:
        return
    (folder / "samples").mkdir()
    for name, content in samples.items():
        (folder / "samples" / f"{name}.jpg").write_bytes(content)
    shown = [f"![{name}](samples/{name}.jpg)" for name in samples]
    with (folder / CARD_FILE).open("a") as card:
        card.write("\n".join(["", "## Samples", "", *shown]) + "\n")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
