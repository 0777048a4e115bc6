"""A cluster without a cluster: the same policy, asked by a clock that jumps from event to event.

What is true of jobs (how long they run) is known to the simulation only; the policy sees what it sees in service.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from orchestrator.scheduling.classes import PriorityClass
from orchestrator.scheduling.nodes import Nodes, held
from orchestrator.scheduling.policy import Decision, Grant
from orchestrator.scheduling.scene import RULES, UNKNOWN, Lane, Rules, Running, Scene, Waits
from orchestrator.scheduling.shares import Room, Tenant

Decide = Callable[[Scene], Decision]
STOP_S = 10.0  # from the request to the checkpoint that is up


class Load(NamedTuple):
    """A job as it will be submitted."""

    id: str
    tenant: str
    class_: str
    arrives: float  # seconds
    runs_s: float  # with all its workers
    says_s: float = UNKNOWN  # its timeout or estimate: what the policy is told
    cpus: int = 1  # of each worker
    gpus: int = 0
    workers: int = 1
    min_workers: int = 1
    priority: int = 0
    short: bool = False


@dataclass(slots=True)
class Story:
    """What became of a job."""

    load: Load
    left_s: float  # of `runs_s`
    waits_since: float
    waited_s: float = 0.0
    started: float | None = None  # first
    ended: float | None = None
    preemptions: int = 0


class _AtWork(NamedTuple):
    story: Story
    run: Running
    lane: Lane
    workers: int
    warm: bool


@dataclass
class Simulation:
    """Runs `loads` to their end under `decide`. Deterministic."""

    nodes: Mapping[str, Room]
    tenants: Mapping[str, Tenant]
    classes: Mapping[str, PriorityClass]
    decide: Decide
    warm: int = 0
    rules: Rules = RULES
    stories: dict[str, Story] = field(default_factory=dict)
    busy: float = 0.0  # GPU seconds held until the last arrival
    preemptions: int = 0
    observe: Callable[[Scene, Decision], None] | None = None

    def run(self, loads: Sequence[Load]) -> float:
        """Returns the time of the last end."""
        arrivals = sorted(loads, key=lambda load: (load.arrives, load.id))
        self._lanes: dict[tuple[object, ...], Lane] = {}
        self._at_work: dict[str, _AtWork] = {}
        self._events: list[tuple[float, int, str, str]] = []
        self._number = 0
        self._ordered: list[Running] = []
        whole, free = Nodes(self.nodes), Nodes(self.nodes)
        self._scene = Scene(0.0, whole, free, [], self.tenants, self._ordered, self.warm, 0, self.rules)
        self._last = arrivals[-1].arrives
        now, place = 0.0, 0
        while place < len(arrivals) or self._events:
            next_end = self._events[0][0] if self._events else UNKNOWN
            if place < len(arrivals) and arrivals[place].arrives <= next_end:
                now = arrivals[place].arrives
                self._arrive(arrivals[place], now)
                place += 1
            else:
                now, _, job_id, what = heapq.heappop(self._events)
                if not self._happens(job_id, what, now):
                    continue
            self._schedule(now)
        return now

    def _arrive(self, load: Load, now: float) -> None:
        self.stories[load.id] = Story(load, load.runs_s, now)
        self._wait(load, load.says_s)

    def _wait(self, load: Load, says_s: float) -> None:
        lane = self._lane_of(load)
        insort(cast(MutableSequence[Waits], lane.jobs), Waits(load.id, load.arrives, says_s), key=_place)

    def _lane_of(self, load: Load) -> Lane:
        key = (
            load.tenant, load.class_, load.priority, load.cpus, load.gpus, load.workers, load.min_workers, load.short,
        )  # fmt: skip
        if key not in self._lanes:
            declared = self.classes[load.class_]
            self._lanes[key] = Lane(
                tenant=load.tenant, level=declared.level, jobs=deque(), priority=load.priority, cpus=load.cpus,
                gpus=load.gpus, workers=load.workers, min_workers=load.min_workers, preempts=declared.preempts,
                short=load.short, key=str(key),
            )  # fmt: skip
            self._scene.lanes = list(self._lanes.values())
        return self._lanes[key]

    def _happens(self, job_id: str, what: str, now: float) -> bool:
        """An attempt ends or has stopped; False for an end that a preemption came before."""
        at_work = self._at_work.get(job_id)
        if at_work is None or what != self._awaited(at_work):
            return False
        del self._at_work[job_id]
        self._leave(at_work, now)
        story = at_work.story
        if what != "stop":
            story.ended, story.left_s = now, 0.0
            return True
        done_s = (now - at_work.run.started) * at_work.workers / story.load.workers
        story.left_s = max(1.0, story.left_s - done_s)
        story.preemptions += 1
        story.waits_since = now
        says_s = story.load.says_s if story.load.says_s == UNKNOWN else max(1.0, story.load.says_s - done_s)
        self._wait(story.load, says_s)
        return True

    @staticmethod
    def _awaited(at_work: _AtWork) -> str:
        return "stop" if at_work.run.stopping else f"end{at_work.story.preemptions}"

    def _leave(self, at_work: _AtWork, now: float) -> None:
        load, run = at_work.story.load, at_work.run
        if at_work.warm:
            self._scene.warm += 1
        self._drop(run)
        self._scene.nodes.give(run.held)
        self.tenants[load.tenant].hold(-load.cpus * at_work.workers, -load.gpus * at_work.workers, now)
        self.busy += run.gpus * max(0.0, min(now, self._last) - run.started)

    def _drop(self, run: Running) -> None:
        place = bisect_left(self._ordered, run.ends, key=lambda other: other.ends)
        while self._ordered[place] is not run:
            place += 1
        del self._ordered[place]

    def _schedule(self, now: float) -> None:
        scene = self._scene
        scene.now = now
        while True:
            decision = self.decide(scene)
            if self.observe is not None:
                self.observe(scene, decision)
            if decision.grant is not None:
                self._start(decision.grant, now)
            elif decision.victims:
                self._preempt(decision.victims, now)
            else:
                return

    def _start(self, grant: Grant, now: float) -> None:
        scene, lane, story = self._scene, grant.lane, self.stories[grant.job.id]
        cast(MutableSequence[Waits], lane.jobs).remove(grant.job)
        scene.since_overdue = 0 if grant.overdue else scene.since_overdue + 1
        story.waited_s += now - story.waits_since
        story.started = now if story.started is None else story.started
        if grant.warm:
            scene.warm -= 1
        declared, slower = self.classes[story.load.class_], lane.workers / grant.workers
        took = 0 if grant.warm else grant.workers
        run = Running(
            id=grant.job.id, level=lane.level, cpus=lane.cpus * took, gpus=lane.gpus * took, started=now,
            ends=now + grant.job.length_s * slower, preemptible=declared.preemptible and bool(took),
            preemptions=story.preemptions, warm=grant.warm, held=held(grant.places, lane.cpus, lane.gpus),
        )  # fmt: skip
        insort(self._ordered, run, key=lambda other: other.ends)
        self._at_work[run.id] = _AtWork(story, run, lane, grant.workers, grant.warm)
        scene.nodes.take(run.held)
        self.tenants[lane.tenant].hold(lane.cpus * grant.workers, lane.gpus * grant.workers, now)
        self._later(now + story.left_s * slower, run.id, f"end{story.preemptions}")

    def _preempt(self, victims: Sequence[str], now: float) -> None:
        for job_id in victims:
            run = self._at_work[job_id].run
            self._drop(run)
            run.stopping, run.ends = True, now + STOP_S
            insort(self._ordered, run, key=lambda other: other.ends)
            self._later(run.ends, job_id, "stop")
            self.preemptions += 1

    def _later(self, at: float, job_id: str, what: str) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, job_id, what))


def _place(job: Waits) -> tuple[float, str]:
    return job.since, job.id
