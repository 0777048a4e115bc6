"""What there is to decide about, at one instant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.scheduling.nodes import Held, Nodes
from orchestrator.scheduling.shares import Room, Tenant

UNKNOWN = math.inf  # an end that nobody knows


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The constants of the policy. Seconds."""

    hold_s: float = 600.0  # a first job that has waited so long lets nobody pass who could delay it
    overdue_s: float = 6 * 3600.0  # a job that has waited so long is overdue
    overdue_every: int = 8  # one in so many claims is for the oldest overdue job, whatever its class
    preempt_after_s: float = 60.0  # nobody is preempted for what would start within that anyway
    stop_s: float = 30.0  # how long a job that was asked to stop takes to make room
    most_preemptions: int = 5  # of one job; afterwards it is left alone


RULES = Rules()


class Waits(NamedTuple):
    """A waiting job, as far as it differs from the others of its lane."""

    id: str
    since: float  # waits from then on
    length_s: float = UNKNOWN  # at most, by `timeout_s` or an estimate
    deadline: float = math.inf
    ready_at: float = 0.0  # back-off after a fault


@dataclass(slots=True)
class Lane:
    """Waiting jobs of one tenant that differ in nothing that decides about room; the first one goes first."""

    tenant: str
    level: int  # of their class
    jobs: Sequence[Waits]  # the first ones
    priority: int = 0
    cpus: int = 1  # of each worker
    gpus: int = 0
    workers: int = 1
    min_workers: int = 1
    preempts: bool = False
    short: bool = False  # may run on a warm worker, beside the room
    key: str = ""
    is_whole: bool = True  # false: more jobs wait behind these


@dataclass(slots=True)
class Running:
    """An attempt that holds room."""

    id: str
    level: int
    cpus: int  # of all its workers
    gpus: int
    started: float
    ends: float = UNKNOWN  # expected
    preemptible: bool = False
    preemptions: int = 0  # of its job so far
    warm: bool = False  # on a warm worker: it holds no room
    stopping: bool = False  # it was asked to stop: its room comes back soon
    held: Held = field(default_factory=dict)  # on which nodes, as far as that is known


@dataclass(slots=True)
class Scene:
    """Everything that the policy looks at."""

    now: float  # seconds since 1970
    whole: Nodes  # all that there is
    nodes: Nodes  # what is free of it
    lanes: Sequence[Lane]
    tenants: Mapping[str, Tenant]
    running: Sequence[Running] = ()  # in the order of `ends`; needed only where something does not fit
    warm: int = 0  # idle warm workers
    since_overdue: int = 0  # claims since the last one for an overdue job
    rules: Rules = RULES

    @property
    def total(self) -> Room:
        return self.whole.sum

    @property
    def free(self) -> Room:
        return self.nodes.sum


def granted(lane: Lane, nodes: Nodes, left: Room | None = None) -> int:
    """As many workers as fit, `lane.workers` at most; 0 where not even `min_workers` fit.

    left: what the tenant's quota leaves in all.
    """
    room = nodes.sum if left is None else left
    most = lane.workers
    if lane.cpus:
        most = min(most, room.cpus // lane.cpus)
    if lane.gpus:
        most = min(most, room.gpus // lane.gpus)
    if most < lane.min_workers:
        return 0
    most = min(most, nodes.holds(lane.cpus, lane.gpus))
    return most if most >= lane.min_workers else 0
