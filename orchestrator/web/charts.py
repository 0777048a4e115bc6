"""A job's curves as the page draws them: one chart per metric, with ticks for what happened to the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.store import jobs, metrics
from orchestrator.store.tables import Attempt, Checkpoint, Job

MAX_POINTS = 1000  # of one curve: more than there are pixels
MAX_MARKS = 200


def curves(tx: Session, job: Job) -> dict[str, Any]:
    """JSON for `static/job.js`; `last_id` is the newest event that the points hold already."""
    found = metrics.curves(tx, job.id, names=(), from_step=1, max_points=MAX_POINTS)
    attempts = jobs.attempts(tx, job.id, after=0, limit=MAX_MARKS)
    checkpoints = jobs.checkpoints(tx, job.id, after=(-1, -1), limit=MAX_MARKS)
    return {
        "last_id": job.events,
        "terms": [
            {"name": name, "steps": [step for step, _ in points], "values": [value for _, value in points]}
            for name, points in sorted(found.items(), key=lambda item: importance(item[0]))
        ],
        "marks": marks(attempts, checkpoints),
    }


def importance(name: str) -> tuple[int, str]:
    """The whole loss first, then its terms, then everything else."""
    return (0 if name == "total_loss" else 1 if name.endswith("_loss") else 2, name)


def marks(attempts: Sequence[Attempt], checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Ticks on the axis of steps: checkpoints that can be gone back to, and where later attempts went on."""
    ready = [{"step": c.step, "kind": "checkpoint"} for c in checkpoints if c.status == "ready"]
    resumed = [
        {"step": a.resumed_from, "kind": "attempt"} for a in attempts if a.attempt > 1 and a.resumed_from is not None
    ]
    return ready + resumed
