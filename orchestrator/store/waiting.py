"""Why jobs wait, where they stand, when they may start: the policy's outlook, read from SQL.

`outlook` reads the first jobs of every lane and costs by the number of lanes. A submit may take an outlook that is up
to a second old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from orchestrator.scheduling.outlook import Outlook, Prospect, look_ahead
from orchestrator.states import Status
from orchestrator.store import scenes
from orchestrator.store.scenes import Classes
from orchestrator.store.tables import Job

MOST_TOLD = 200  # places that are counted
READ_JOBS = 800  # of all lanes together
FEWEST_OF_A_LANE = 8
FRESH_S = 1.0
LONGEST_BETWEEN_S = 0.2  # two looks, unless the last one will do


class Waiting(NamedTuple):
    """Why a pending job does not run."""

    reason: str  # an UNTIL, backoff, cluster (none was seen lately), quota, size, room, nodes, reservation, queue
    position: int | None  # 1 is next; None when it is paused, kept by a quota, or with `MOST_TOLD` or more ahead
    estimated_start: float | None  # seconds since 1970, where it can be told


UNTIL = {Status.PAUSED.value: Waiting("paused", None, None), Status.BLOCKED.value: Waiting("dependencies", None, None)}


def waiting(
    tx: Session, jobs: Sequence[Job], classes: Classes, *, now: float, is_there: bool, told: Outlook | None = None
) -> dict[str, Waiting]:
    """By id, of those of `jobs` that are pending.

    is_there: a dispatcher has seen the cluster lately. told: an outlook that will do for all of them.
    """
    found = {job.id: UNTIL[job.status] for job in jobs if job.status in UNTIL}
    queued = [job for job in jobs if job.status == Status.QUEUED]
    if queued and told is None:
        told = outlook(tx, classes)
    for job in queued:
        found[job.id] = _waiting(job, told or Outlook(), now, is_there=is_there)
    return found


def _waiting(job: Job, told: Outlook, now: float, *, is_there: bool) -> Waiting:
    prospect = told.prospects.get(job.id)
    position = None if prospect is None else prospect.position
    if job.not_before > now:
        reason = "backoff"
    elif not is_there:
        reason = "cluster"
    else:
        reason = told.beyond.get(job.lane, "queue") if prospect is None else prospect.reason
    return Waiting(reason, position, prospect.start if prospect is not None and is_there else None)


def outlook(tx: Session, classes: Classes) -> Outlook:
    """The outlook of the first `MOST_TOLD` jobs, now."""
    width = max(FEWEST_OF_A_LANE, min(MOST_TOLD + 1, READ_JOBS // max(1, scenes.count_lanes(tx))))
    look = scenes.look(tx, classes, width=width, ready_only=False)
    scene = look.scene
    if scene.lanes:
        scene.running = scenes.running(tx, classes, scene.now)
        scene.warm = max(0, look.warm - sum(run.warm for run in scene.running))
    return look_ahead(scene, most=MOST_TOLD)


class RecentOutlook:
    """The last outlook of this process, for answers to submits; threads share it.

    A tenth of the time may go into looking. In between, a new job is told that it comes last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: Outlook | None = None
        self._taken_at = self._next_look = 0.0  # monotonic
        self._places = 0  # given so far

    def of(self, tx: Session, job: Job, classes: Classes) -> Outlook:
        """An outlook that will do for `job`, the newest of all."""
        with self._lock:
            now = time.monotonic()
            told = self._told
            if told is not None and now - self._taken_at < FRESH_S:
                if job.lane in told.beyond:
                    return told
                if now < self._next_look:
                    return Outlook({job.id: self._last_place(told)})
            return self._look(tx, classes, now)

    def _look(self, tx: Session, classes: Classes, began: float) -> Outlook:
        self._told = told = outlook(tx, classes)
        self._taken_at = time.monotonic()
        self._next_look = self._taken_at + min(LONGEST_BETWEEN_S, 9 * (self._taken_at - began))
        self._places = sum(prospect.position is not None for prospect in told.prospects.values())
        return told

    def _last_place(self, told: Outlook) -> Prospect:
        self._places += 1
        reasons = [prospect.reason for prospect in told.prospects.values() if prospect.position is not None]
        return Prospect(reasons[-1] if reasons else "queue", self._places if self._places <= MOST_TOLD else None, None)
