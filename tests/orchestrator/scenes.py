"""Situations for the policy, written by hand or drawn by Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st

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
    return Running(name, cpus=cpus, **values)


def scene(*lanes: Lane, cpus: int = 4, gpus: int = 0, running: tuple[Running, ...] = (), **changes: Any) -> Scene:
    """A cluster of which `running` holds its part."""
    free = Room(cpus - sum(run.cpus for run in running), gpus - sum(run.gpus for run in running))
    tenants = {name: Tenant() for name in {one.tenant for one in lanes}} | changes.pop("tenants", {})
    ordered = sorted(running, key=lambda run: run.ends)
    return Scene(NOW, Room(cpus, gpus), free, list(lanes), tenants, ordered, **changes)


LENGTHS = st.one_of(st.just(UNKNOWN), st.floats(1, 5000))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Any cluster of up to 8 cores and 4 GPUs with what waits and runs on it."""
    total = Room(draw(st.integers(1, 8)), draw(st.integers(0, 4)))
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
    running, cpus, gpus = [], 0, 0
    for number in range(draw(st.integers(0, 4))):
        one_cpus, one_gpus = draw(st.integers(0, total.cpus - cpus)), draw(st.integers(0, total.gpus - gpus))
        cpus, gpus = cpus + one_cpus, gpus + one_gpus
        tenant = tenants[draw(st.sampled_from(["a", "b", "c"]))]
        tenant.cpus, tenant.gpus = tenant.cpus + one_cpus, tenant.gpus + one_gpus
        running.append(
            Running(
                f"run-{number}", level=draw(st.integers(0, 2)), cpus=one_cpus, gpus=one_gpus,
                started=NOW - draw(st.floats(0, 1000)), ends=NOW + draw(LENGTHS), preemptible=draw(st.booleans()),
                preemptions=draw(st.integers(0, 6)), stopping=draw(st.booleans()),
            )
        )  # fmt: skip
    lanes = [_lane(draw, number) for number in range(draw(st.integers(0, 5)))]
    return Scene(
        NOW, total, Room(total.cpus - cpus, total.gpus - gpus), lanes, tenants,
        sorted(running, key=lambda run: run.ends), warm=draw(st.integers(0, 1)), since_overdue=draw(st.integers(0, 9)),
    )  # fmt: skip


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
