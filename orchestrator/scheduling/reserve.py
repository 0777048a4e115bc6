"""The room that is kept for the first job that does not fit, so that smaller ones pass it only where they may.

EASY backfilling (Lifka 1995) with lengths that may be unknown: a job passes if it ends before the first one is expected
to start, or takes only what the first one will not need. Where nobody can tell when the first one starts, all may pass
at first; once it has waited for `hold_s`, only those who cannot delay it.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.scheduling.scene import UNKNOWN, Lane, Scene, Waits
from orchestrator.scheduling.shares import Room


class Reservation(NamedTuple):
    job: Waits
    lane: Lane
    at: float  # when it is expected to start; UNKNOWN where that depends on jobs of unknown length
    spare: Room  # what may be held for ever without delaying it


def reserve(scene: Scene, lane: Lane, job: Waits) -> Reservation:
    """When `job`, which does not fit now, can start with its fewest workers if nobody passes it."""
    cpus, gpus = lane.cpus * lane.min_workers, lane.gpus * lane.min_workers
    free_cpus, free_gpus = scene.free
    at = UNKNOWN
    for run in scene.running:
        ends = run.ends
        if ends == UNKNOWN or ends > at:
            break
        free_cpus += run.cpus
        free_gpus += run.gpus
        if at == UNKNOWN and cpus <= free_cpus and gpus <= free_gpus:
            at = max(ends, scene.now)
    if at == UNKNOWN:
        free_cpus, free_gpus = scene.free
    return Reservation(job, lane, at, Room(max(0, free_cpus - cpus), max(0, free_gpus - gpus)))


def room_for(scene: Scene, job: Waits, held: Reservation | None) -> Room:
    """What of the free room `job` may take without delaying the job that it would pass."""
    return scene.free if held is None or passes(scene, job, held) else spare_room(scene, held)


def passes(scene: Scene, job: Waits, held: Reservation) -> bool:
    """Whether `job` may take any room that is free."""
    if held.at == UNKNOWN:
        return scene.now - held.job.since < scene.rules.hold_s
    return scene.now + job.length_s <= held.at


def spare_room(scene: Scene, held: Reservation) -> Room:
    """What of the free room nobody misses, however long it is held."""
    return Room(min(scene.free.cpus, held.spare.cpus), min(scene.free.gpus, held.spare.gpus))
