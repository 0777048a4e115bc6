"""The room that is kept for the first job that does not fit, so that smaller ones pass it only where they may.

EASY backfilling (Lifka 1995) with lengths that may be unknown: a job passes if it ends before the first one is expected
to start, or takes only what the first one will not need. Where nobody can tell when the first one starts, all may pass
at first; once it has waited for `hold_s`, only those who cannot delay it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.scheduling.nodes import Held, Later, Nodes, held
from orchestrator.scheduling.scene import UNKNOWN, Lane, Scene, Waits
from orchestrator.scheduling.shares import Room


@dataclass
class Reservation:
    """Of the first job that does not fit."""

    job: Waits
    lane: Lane
    at: float  # when it is expected to start; UNKNOWN where that depends on jobs of unknown length
    later: Later | None  # what is free then; None where nobody knows when
    _spare: Nodes | None = None

    def spare(self, scene: Scene) -> Nodes:
        """What of the free room may be held for ever without delaying the job; found when it is first asked for.

        The job's nodes are those that fit it best when it starts. Where nobody knows when, they are those where least
        is missing now, and on them nobody takes what the job needs.
        """
        if self._spare is None:
            cpus, gpus, workers = self.lane.cpus, self.lane.gpus, self.lane.min_workers
            if self.later is None:
                later = scene.nodes
                places = later.nearest(scene.whole, cpus, gpus, workers)
            else:
                later = self.later.nodes()
                places = later.best_fit(cpus, gpus, workers)
            self._spare = scene.nodes.copy()
            for node, need in held(places, cpus, gpus).items():
                then, free = later.rooms[node], scene.nodes.rooms[node]
                left = Room(max(0, then.cpus - need.cpus), max(0, then.gpus - need.gpus))
                self._spare.put(node, Room(min(free.cpus, left.cpus), min(free.gpus, left.gpus)))
        return self._spare


def reserve(scene: Scene, lane: Lane, job: Waits) -> Reservation:
    """When `job`, which does not fit now, can start with its fewest workers if nobody passes it.

    Nodes are looked at only once there is enough in all.
    """
    cpus, gpus = lane.cpus * lane.min_workers, lane.gpus * lane.min_workers
    free_cpus, free_gpus = scene.free
    at, later, ended = UNKNOWN, Later(scene.nodes, lane.cpus, lane.gpus), list[Held]()
    for run in scene.running:
        ends = run.ends
        if ends == UNKNOWN or ends > at:
            break
        ended.append(run.held)
        free_cpus += run.cpus
        free_gpus += run.gpus
        if at == UNKNOWN and cpus <= free_cpus and gpus <= free_gpus:
            if later.end(ended) >= lane.min_workers:
                at = max(ends, scene.now)
            ended.clear()
    if at == UNKNOWN:
        return Reservation(job, lane, UNKNOWN, None)
    later.end(ended)
    return Reservation(job, lane, at, later)


def room_for(scene: Scene, job: Waits, held: Reservation | None) -> Nodes:
    """What of the free room `job` may take without delaying the job that it would pass."""
    return scene.nodes if held is None or passes(scene, job, held) else held.spare(scene)


def passes(scene: Scene, job: Waits, held: Reservation) -> bool:
    """Whether `job` may take any room that is free."""
    if held.at == UNKNOWN:
        return scene.now - held.job.since < scene.rules.hold_s
    return scene.now + job.length_s <= held.at
