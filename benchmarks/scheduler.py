"""The scheduler on a simulated cluster: `python -m benchmarks.scheduler [--jobs 100000 --gpus 1000 --seed 0]`.

`--node-gpus 8`: on nodes of 8 GPUs, a worker having all of its own on one of them; without, the cluster is one pool.

The policy is the service's own (`orchestrator.scheduling`), beside two that ship with nothing: first come, first
served, and the same with EASY backfilling. A table says how much of the cluster was used, how long jobs waited by
class, how evenly tenants got their fair parts by weight while more was wanted than there is (Jain's index: 1 is even),
and how often somebody was preempted. The same seed gives the same table.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.machine import quantile
from orchestrator.scheduling import policy
from orchestrator.scheduling.classes import DEFAULT_CLASSES, parse_classes
from orchestrator.scheduling.nodes import Nodes
from orchestrator.scheduling.policy import Decision, Grant
from orchestrator.scheduling.reserve import reserve, room_for
from orchestrator.scheduling.scene import UNKNOWN, Lane, Scene, Waits, granted
from orchestrator.scheduling.shares import Room, Tenant
from orchestrator.scheduling.simulation import Decide, Load, Simulation

CLASSES = parse_classes(DEFAULT_CLASSES)
CPUS_OF_A_GPU = 8
WARM_WORKERS = 16
LOAD = 0.97  # GPU seconds asked for, as a part of what there is until the last job arrives
WEIGHTS = {"a": 4.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": 1.0, "f": 1.0, "g": 1.0, "h": 1.0}
ASKING = {
    "a": 3.0,
    "b": 2.0,
    "c": 1.0,
    "d": 4.0,
    "e": 1.0,
    "f": 1.0,
    "g": 0.5,
    "h": 0.5,
}  # d wants far more than its due
SIZES = {1: 0.62, 2: 0.16, 4: 0.11, 8: 0.08, 32: 0.025, 128: 0.005}  # GPUs of a job: part of the jobs
CLASS_PARTS = {"spare": 0.25, "standard": 0.65, "urgent": 0.10}
SHORT_PART = 0.15  # adaptations on warm workers
DAY_S, SAMPLE_S = 86_400.0, 600.0


def loads(jobs: int, gpus: int, seed: int) -> list[Load]:
    """Work with a daily tide, tenants that ask for more and for less than their due, and lengths often unknown."""
    rng = random.Random(seed)
    sizes = {size: part for size, part in SIZES.items() if size <= max(1, gpus // 4)}
    drawn = [_draw(rng, number, sizes) for number in range(jobs)]
    work = sum(load.gpus * load.workers * load.runs_s for load in drawn)
    span_s = work / (LOAD * gpus)
    arrivals = sorted(_tide(rng.random() * span_s, span_s) for _ in drawn)
    return [load._replace(arrives=at) for load, at in zip(drawn, arrivals, strict=True)]


def _draw(rng: random.Random, number: int, sizes: dict[int, float]) -> Load:
    tenant = rng.choices(list(ASKING), list(ASKING.values()))[0]
    name = f"job_{number:07}"
    if rng.random() < SHORT_PART:
        return Load(name, tenant, "standard", 0.0, runs_s=rng.uniform(5, 60), short=True)
    class_ = rng.choices(list(CLASS_PARTS), list(CLASS_PARTS.values()))[0]
    size = rng.choices(list(sizes), list(sizes.values()))[0]
    runs_s = min(2 * DAY_S, rng.lognormvariate(math.log(1200), 1.3))
    says_s = runs_s * rng.uniform(1.0, 3.0) if rng.random() < 0.7 else UNKNOWN
    each = min(size, 8)  # GPUs of one worker; larger jobs are gangs
    return Load(
        name, tenant, class_, 0.0, runs_s, says_s, cpus=each * CPUS_OF_A_GPU // 2, gpus=each, workers=size // each,
        min_workers=size // each,
    )  # fmt: skip


def _tide(at: float, span_s: float) -> float:
    """More arrives by day than by night."""
    shifted = at + 0.5 * DAY_S / (2 * math.pi) * math.sin(2 * math.pi * at / DAY_S)
    return min(max(0.0, shifted), span_s)


def first_come(scene: Scene) -> Decision:
    """The oldest job, or nobody."""
    oldest = _oldest(scene)
    return Decision(None if oldest is None else _start(scene, *oldest, scene.nodes), None)


def first_come_backfill(scene: Scene) -> Decision:
    """The oldest job; while it does not fit, others that do not delay it, the oldest first."""
    oldest = _oldest(scene)
    if oldest is None:
        return Decision(None, None)
    if (grant := _start(scene, *oldest, scene.nodes)) is not None:
        return Decision(grant, None)
    if not any(lane.jobs and granted(lane, scene.nodes) for lane in scene.lanes):
        return Decision(None, None)
    held = reserve(scene, *oldest)
    for lane in sorted((lane for lane in scene.lanes if lane.jobs), key=lambda lane: lane.jobs[0].since):
        job = lane.jobs[0]
        if (grant := _start(scene, lane, job, room_for(scene, job, held))) is not None:
            return Decision(grant, held)
    return Decision(None, held)


def _oldest(scene: Scene) -> tuple[Lane, Waits] | None:
    lane = min((lane for lane in scene.lanes if lane.jobs), key=lambda lane: lane.jobs[0].since, default=None)
    return None if lane is None else (lane, lane.jobs[0])


def _start(scene: Scene, lane: Lane, job: Waits, nodes: Nodes) -> Grant | None:
    workers = granted(lane, nodes)
    if not workers:
        return None
    places = nodes.best_fit(lane.cpus, lane.gpus, workers)
    return Grant(job, lane, workers, warm=False, overdue=False, places=places)


POLICIES: dict[str, Decide] = {
    "first come": first_come,
    "first come + backfill": first_come_backfill,
    "stylefoundry": policy.decide,
}


class Row(NamedTuple):
    """What came out."""

    policy: str
    utilisation: float  # of the GPUs, until the last arrival
    jain: float
    preemptions: int
    waited_s: dict[str, list[float]]  # class, "short" and "large" apart -> seconds in the queue
    took_s: float  # CPU time of the simulation


def simulate(name: str, work: Sequence[Load], gpus: int, each: int | None = None) -> Row:
    """One policy over `work`, on nodes of `each` GPUs, or on one."""
    each = gpus if each is None else each
    nodes = {f"node-{number:03}": Room(each * CPUS_OF_A_GPU, each) for number in range(gpus // each)}
    tenants = {name: Tenant(weight=weight) for name, weight in WEIGHTS.items()}
    fairness = Fairness()
    simulation = Simulation(nodes, tenants, CLASSES, POLICIES[name], warm=WARM_WORKERS, observe=fairness.observe)
    began = time.process_time()
    simulation.run(work)
    took_s = time.process_time() - began
    waited: dict[str, list[float]] = {"short": [], "urgent": [], "standard": [], "spare": [], "32 GPUs and more": []}
    for story in simulation.stories.values():
        load = story.load
        waited["short" if load.short else load.class_].append(story.waited_s)
        if load.gpus * load.workers >= 32:
            waited["32 GPUs and more"].append(story.waited_s)
    used = simulation.busy / (gpus * work[-1].arrives)
    return Row(name, used, fairness.index(), simulation.preemptions, waited, took_s)


class Fairness:
    """What each tenant held of its fair part, over the times in which more was wanted than there is.

    The fair part is the max-min one by weights: nobody gets more than it wants, and what is left goes to the others.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._held: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)
        self._due: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)

    def observe(self, scene: Scene, decision: Decision) -> None:
        if scene.now < self._next:
            return
        self._next = scene.now + SAMPLE_S
        wanted = {name: float(tenant.gpus) for name, tenant in scene.tenants.items()}
        for lane in scene.lanes:
            wanted[lane.tenant] += len(lane.jobs) * lane.gpus * lane.workers
        if sum(wanted.values()) > scene.total.gpus:
            fair = fair_parts(wanted, {name: scene.tenants[name].weight for name in wanted}, scene.total.gpus)
            for name, part in fair.items():
                self._held[name] += scene.tenants[name].gpus
                self._due[name] += part

    def index(self) -> float:
        return jain([held / self._due[name] for name, held in self._held.items() if self._due[name]])


def fair_parts(wanted: Mapping[str, float], weights: Mapping[str, float], total: float) -> dict[str, float]:
    """`total` shared out by weights, to nobody more than wanted."""
    parts: dict[str, float] = {}
    left, weight_left = total, sum(weights.values())
    for name in sorted(wanted, key=lambda name: wanted[name] / weights[name]):
        parts[name] = min(wanted[name], left * weights[name] / weight_left)
        left -= parts[name]
        weight_left -= weights[name]
    return parts


def jain(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2), Jain et al. 1984: 1 where all get the same, 1/n where one gets everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    kinds = [kind for kind, waited in rows[0].waited_s.items() if waited]
    lines = [
        "| policy | GPUs used | fairness | preemptions | "
        + " | ".join(f"{kind}: p50, p95, max" for kind in kinds)
        + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(kinds),
    ]
    for row in rows:
        waits = [_waits_text(row.waited_s[kind]) for kind in kinds]
        lines.append(
            f"| {row.policy} | {row.utilisation:.1%} | {row.jain:.3f} | {row.preemptions:,} | {' | '.join(waits)} |"
        )
    return "\n".join(lines)


def _waits_text(waited_s: Sequence[float]) -> str:
    return ", ".join(_span(value) for value in (quantile(waited_s, 0.5), quantile(waited_s, 0.95), max(waited_s)))


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--node-gpus", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = loads(options.jobs, options.gpus, options.seed)
    print(
        f"{options.jobs:,} jobs on {options.gpus:,} GPUs, seed {options.seed}, {work[-1].arrives / DAY_S:.1f} days",
        flush=True,
    )
    rows = []
    for name in POLICIES:
        rows.append(simulate(name, work, options.gpus, options.node_gpus))
        print(f"{name}: {rows[-1].took_s:.1f} s of CPU time", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
