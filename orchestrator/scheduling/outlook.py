"""Why a job waits, where it stands, and when it may start: the policy's order, played forward.

The place counts the jobs whose turn comes before, as if no new ones came. The expected start plays the ends of running
and waiting jobs forward in that order without anybody passing, so that a job mostly starts earlier; where it depends on
a job of unknown length there is none.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.scheduling.nodes import Held, Nodes, held
from orchestrator.scheduling.policy import Rank, rank
from orchestrator.scheduling.reserve import Reservation, reserve, room_for
from orchestrator.scheduling.scene import UNKNOWN, Lane, Scene, Waits, granted
from orchestrator.scheduling.shares import Room


class Prospect(NamedTuple):
    """What a waiting job is told."""

    reason: str  # queue | room | nodes | size | reservation | quota | backoff
    position: int | None  # 1 is next; None where a quota keeps it from having a turn
    start: float | None  # seconds since 1970


@dataclass
class Outlook:
    """Of the first waiting jobs; `beyond` names the lanes of which more wait behind all of these."""

    prospects: dict[str, Prospect] = field(default_factory=dict)  # job id -> …
    beyond: dict[str, str] = field(default_factory=dict)  # lane key -> reason


class Turn(NamedTuple):
    lane: Lane
    job: Waits
    by_quota: bool  # it has none: its tenant holds all that it may


def look_ahead(scene: Scene, *, most: int) -> Outlook:
    """The outlook of the first `most` jobs."""
    outlook = Outlook()
    starts = _Starts(scene)
    reasons = _Reasons(scene)
    position = 0
    for turn in turns(scene):
        if turn.by_quota:
            outlook.prospects[turn.job.id] = Prospect(_or_backoff(scene, turn.job, "quota"), None, None)
            outlook.beyond[turn.lane.key] = "quota"
            continue
        position += 1
        if position > most:
            outlook.beyond.setdefault(turn.lane.key, "queue")
            break
        reason = _or_backoff(scene, turn.job, reasons.of(turn.lane, turn.job))
        outlook.prospects[turn.job.id] = Prospect(reason, position, starts.of(turn.lane, turn.job))
    _name_the_rest(scene, outlook)
    return outlook


def turns(scene: Scene) -> Iterator[Turn]:
    """The jobs of the scene's lanes in the order in which their turns come; ends at a lane whose rest is not known.

    Every turn adds to its tenant's share, so tenants alternate by their weights. Shares only grow: a rank from before
    is a lower bound, and the heap looks again at what comes out of it with one.
    """
    tenants = {name: copy(tenant) for name, tenant in scene.tenants.items()}
    ahead: list[tuple[Rank, int, int]] = []  # rank, lane, place in it

    def push(number: int, place: int) -> None:
        lane = scene.lanes[number]
        if place < len(lane.jobs):
            share = tenants[lane.tenant].share(scene.total, scene.now)
            heapq.heappush(ahead, (rank(scene, lane, lane.jobs[place], share=share), number, place))

    for number in range(len(scene.lanes)):
        push(number, 0)
    while ahead:
        seen, number, place = heapq.heappop(ahead)
        lane = scene.lanes[number]
        job, tenant = lane.jobs[place], tenants[lane.tenant]
        if rank(scene, lane, job, share=tenant.share(scene.total, scene.now)) != seen:
            push(number, place)
            continue
        cpus, gpus = lane.cpus * lane.min_workers, lane.gpus * lane.min_workers
        may = tenant.may_hold(cpus, gpus)
        yield Turn(lane, job, by_quota=not may)
        if may:
            tenant.hold(cpus, gpus, scene.now)
        if place + 1 == len(lane.jobs) and not lane.is_whole and may:
            return
        push(number, place + 1)


def _or_backoff(scene: Scene, job: Waits, reason: str) -> str:
    return "backoff" if job.ready_at > scene.now else reason


def _name_the_rest(scene: Scene, outlook: Outlook) -> None:
    for lane in scene.lanes:
        if not lane.is_whole or any(job.id not in outlook.prospects for job in lane.jobs):
            outlook.beyond.setdefault(lane.key, "queue")


class _Reasons:
    """Plays the present room forward in the order of turns."""

    def __init__(self, scene: Scene) -> None:
        self._scene = copy(scene)
        self._scene.nodes = scene.nodes.copy()
        self._held: Reservation | None = None

    def of(self, lane: Lane, job: Waits) -> str:
        scene = self._scene
        if job.ready_at > scene.now:
            return "backoff"
        if lane.short and scene.warm:
            scene.warm -= 1
            return "queue"
        if not granted(lane, scene.nodes):
            return self._of_unfit(lane, job)
        nodes = room_for(scene, job, self._held)
        workers = granted(lane, nodes)
        if not workers:
            return "reservation"
        taken = held(nodes.best_fit(lane.cpus, lane.gpus, workers), lane.cpus, lane.gpus)
        scene.nodes.take(taken)
        if self._held is not None:
            _keep_below(self._held.spare(scene), scene.nodes, taken if nodes is not scene.nodes else {})
        return "queue"

    def _of_unfit(self, lane: Lane, job: Waits) -> str:
        scene = self._scene
        if scene.whole.holds(lane.cpus, lane.gpus) < lane.min_workers:
            return "room" if lane.short else "size"  # a warm worker will do for a short one
        if self._held is None:
            self._held = reserve(scene, lane, job)
            self._held.spare(scene)
        enough = scene.free.fits(lane.cpus * lane.min_workers, lane.gpus * lane.min_workers)
        return "nodes" if enough else "room"


def _keep_below(spare: Nodes, free: Nodes, taken: Held) -> None:
    """`taken` came out of what is spare, and nothing is spare that is not free."""
    spare.take(taken)
    for node, room in free.rooms.items():
        left = spare.rooms[node]
        if not room.fits(*left):
            spare.put(node, Room(min(left.cpus, room.cpus), min(left.gpus, room.gpus)))


class _Starts:
    """Plays the ends of jobs forward, nobody passing anybody."""

    def __init__(self, scene: Scene) -> None:
        self._whole = scene.whole
        self._nodes = scene.nodes.copy()
        self._now = scene.now
        self._warm = scene.warm
        self._ends = [
            (max(run.ends, scene.now), n, run.held) for n, run in enumerate(scene.running) if run.ends != UNKNOWN
        ]
        self._number = len(scene.running)
        self._is_over = False  # nobody behind can be told either
        heapq.heapify(self._ends)

    def of(self, lane: Lane, job: Waits) -> float | None:
        if lane.short and self._warm:
            self._warm -= 1
            return self._now
        if self._is_over or self._whole.holds(lane.cpus, lane.gpus) < lane.min_workers:
            return None
        while self._nodes.holds(lane.cpus, lane.gpus) < lane.min_workers:
            if not self._ends:
                self._is_over = True
                return None
            ends, _, freed = heapq.heappop(self._ends)
            self._now = max(self._now, ends)
            self._nodes.give(freed)
        start = max(self._now, job.ready_at)
        taken = held(self._nodes.best_fit(lane.cpus, lane.gpus, lane.min_workers), lane.cpus, lane.gpus)
        self._nodes.take(taken)
        if job.length_s != UNKNOWN:
            self._number += 1
            heapq.heappush(self._ends, (start + job.length_s, self._number, taken))
        return start
