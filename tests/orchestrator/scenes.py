"""Situations for the policy, written by hand or drawn by Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st

from orchestrator.scheduling.nodes import POOL, Nodes
from orchestrator.scheduling.scene import UNKNOWN, Lane, Running, Scene, Waits
from orchestrator.scheduling.shares import Room, Tenant

NOW = 1_000_000.0


def waits(name: str, **changes: Any) -> Waits:
    return Waits(name, **({"since": NOW} | changes))


def lane(*jobs: Waits | str, tenant: str = "t", **changes: Any) -> Lane:
    """Jobs of one core of class level 1."""
    listed = [waits(job) if isinstance(job, str) else job for job in jobs]
    key = f"{tenant}|{[job.id for job in listed]}"
    return Lane(**({"tenant": tenant, "level": 1, "jobs": listed, "key": key} | changes))


def runs(name: str, cpus: int, **changes: Any) -> Running:
    values: dict[str, Any] = {"level": 0, "gpus": 0, "started": NOW - 100.0, "preemptible": True} | changes
    held = {POOL: Room(cpus, values["gpus"])}
    return Running(name, cpus=cpus, **({"held": held} | values))


def scene(*lanes: Lane, cpus: int = 4, gpus: int = 0, running: tuple[Running, ...] = (), **changes: Any) -> Scene:
    """A cluster of which `running` holds its part; all of it is one node, unless `rooms` says otherwise."""
    whole = Nodes(changes.pop("rooms", {POOL: Room(cpus, gpus)}))
    free = whole.copy()
    for run in running:
        free.take(run.held)
    tenants = {name: Tenant() for name in {one.tenant for one in lanes}} | changes.pop("tenants", {})
    ordered = sorted(running, key=lambda run: run.ends)
    return Scene(NOW, whole, free, list(lanes), tenants, ordered, **changes)


LENGTHS = st.one_of(st.just(UNKNOWN), st.floats(1, 5000))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Any cluster of up to three nodes of up to 8 cores and 4 GPUs with what waits and runs on it."""
    rooms = st.builds(Room, st.integers(1, 8), st.integers(0, 4))
    whole = Nodes(draw(st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), rooms, min_size=1)))
    free = whole.copy()
    tenants = {
        name: Tenant(
            weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
            max_cpus=draw(st.one_of(st.none(), st.integers(0, 8))),
            max_gpus=draw(st.one_of(st.none(), st.integers(0, 4))),
            cpus_mean=draw(st.floats(0, 8)),
            mean_at=NOW - draw(st.floats(0, 50_000)),
        )
        for name in ("a", "b", "c")
    }
    running = []
    for number in range(draw(st.integers(0, 5))):
        on = draw(st.lists(st.sampled_from(sorted(whole.rooms)), min_size=1, max_size=2, unique=True))
        held = {node: _part(draw, free.rooms[node]) for node in on}
        free.take(held)
        cpus, gpus = Nodes(held).sum
        tenant = tenants[draw(st.sampled_from(["a", "b", "c"]))]
        tenant.cpus, tenant.gpus = tenant.cpus + cpus, tenant.gpus + gpus
        running.append(
            Running(
                f"run-{number}", level=draw(st.integers(0, 2)), cpus=cpus, gpus=gpus, held=held,
                started=NOW - draw(st.floats(0, 1000)), ends=NOW + draw(LENGTHS), preemptible=draw(st.booleans()),
                preemptions=draw(st.integers(0, 6)), stopping=draw(st.booleans()),
            )
        )  # fmt: skip
    lanes = [_lane(draw, number) for number in range(draw(st.integers(0, 5)))]
    return Scene(
        NOW, whole, free, lanes, tenants,
        sorted(running, key=lambda run: run.ends), warm=draw(st.integers(0, 1)), since_overdue=draw(st.integers(0, 9)),
    )  # fmt: skip


def _part(draw: st.DrawFn, room: Room) -> Room:
    return Room(draw(st.integers(0, room.cpus)), draw(st.integers(0, room.gpus)))


def _lane(draw: st.DrawFn, number: int) -> Lane:
    jobs = [
        Waits(
            f"job-{number}-{place}", NOW - draw(st.floats(0, 50_000)), draw(LENGTHS),
            ready_at=draw(st.sampled_from([0.0, 0.0, NOW + 5])),
        )
        for place in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    level, workers, short = draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.booleans())
    return Lane(
        draw(st.sampled_from(["a", "b", "c"])), level, sorted(jobs, key=lambda job: job.since),
        priority=draw(st.integers(-1, 1)), cpus=draw(st.integers(0, 4)), gpus=0 if short else draw(st.integers(0, 2)),
        workers=1 if short else workers, min_workers=1 if short else draw(st.integers(1, workers)),
        preempts=level == 2, short=short, key=f"lane-{number}",
    )  # fmt: skip


def ids(*jobs: Waits) -> list[str]:
    return [job.id for job in jobs]


NEVER = math.inf
