"""The policy over time, on a simulated cluster: nothing is exceeded or idles, nobody starves, shares go by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.scheduler import CLASSES, WEIGHTS, fair_parts, jain, loads, simulate
from orchestrator.scheduling import policy
from orchestrator.scheduling.nodes import POOL
from orchestrator.scheduling.policy import Decision
from orchestrator.scheduling.reserve import room_for
from orchestrator.scheduling.scene import RULES, Scene, granted
from orchestrator.scheduling.shares import Room, Tenant
from orchestrator.scheduling.simulation import Load, Simulation

TOTAL = Room(16, 8)
TWO_NODES = {"n1": Room(8, 4), "n2": Room(8, 4)}


def checked(scene: Scene, decision: Decision) -> None:
    """What must hold at every decision."""
    held = [sum(run.cpus for run in scene.running), sum(run.gpus for run in scene.running)]
    assert [scene.total.cpus - scene.free.cpus, scene.total.gpus - scene.free.gpus] == held
    assert all(min(room) >= 0 for room in scene.nodes.rooms.values())
    for tenant in scene.tenants.values():
        assert tenant.max_gpus is None or tenant.gpus <= tenant.max_gpus
    if decision.grant is not None or decision.victims:
        return
    for lane in scene.lanes:
        for job in lane.jobs:
            room = room_for(scene, job, decision.held)
            assert not granted(lane, room, scene.tenants[lane.tenant].left(room.sum)), f"{job.id} could start"


def simulation(tenants: dict[str, Tenant], nodes: Mapping[str, Room] | None = None, **changes: Any) -> Simulation:
    return Simulation(nodes or {POOL: TOTAL}, tenants, CLASSES, policy.decide, warm=1, observe=checked, **changes)


@st.composite
def work(draw: st.DrawFn) -> list[Load]:
    return [
        Load(
            f"job-{number:02}", draw(st.sampled_from(["a", "b"])), draw(st.sampled_from(sorted(CLASSES))),
            arrives=draw(st.floats(0, 1000)), runs_s=(length := draw(st.floats(1, 500))),
            says_s=draw(st.sampled_from([length, 2 * length, float("inf")])), cpus=draw(st.integers(0, 4)),
            gpus=draw(st.integers(0, 2)), workers=draw(st.integers(2, 4)), min_workers=draw(st.integers(1, 2)),
        )
        for number in range(draw(st.integers(1, 25)))
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(work(), st.sampled_from([{POOL: TOTAL}, TWO_NODES]))
def test_every_job_of_a_closed_system_ends_within_a_bound(jobs: list[Load], nodes: Mapping[str, Room]):
    """All the work one after the other, and what preemption and reservations may add, is enough for everybody."""
    run = simulation({"a": Tenant(), "b": Tenant(weight=2, max_gpus=6)}, nodes)
    run.run(jobs)
    slowest = sum(load.runs_s * load.workers / load.min_workers + 20 for load in jobs)
    bound = slowest * (1 + RULES.most_preemptions) + RULES.hold_s
    for story in run.stories.values():
        assert story.ended is not None, f"{story.load.id} never ran"
        assert story.ended - story.load.arrives < bound
        assert story.preemptions <= RULES.most_preemptions


def test_a_big_job_starts_though_small_ones_of_unknown_length_never_stop_coming():
    small = [Load(f"small-{n:04}", "a", "standard", arrives=10.0 * n, runs_s=100.0, cpus=1, gpus=1) for n in range(600)]
    big = Load("big", "a", "standard", arrives=500.0, runs_s=100.0, cpus=16, gpus=8)
    run = simulation({"a": Tenant()})
    run.run([*small, big])
    started = run.stories["big"].started
    assert started is not None
    assert started - 500.0 < RULES.hold_s + 2 * 100.0


def test_spare_jobs_start_though_higher_classes_ask_for_everything_for_ever():
    flood = [Load(f"urgent-{n:04}", "a", "urgent", arrives=20.0 * n, runs_s=200.0, cpus=1, gpus=1) for n in range(1600)]
    spare = [Load(f"spare-{n}", "b", "spare", arrives=0.0, runs_s=10.0, cpus=1, gpus=1) for n in range(8, 12)]
    run = simulation({"a": Tenant(), "b": Tenant(max_gpus=2)})
    run.run([*flood, *spare])
    last = max(run.stories[load.id].waited_s for load in spare)
    assert last < RULES.overdue_s + len(spare) * RULES.overdue_every * 200.0


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0), (5.0, 2.0)])
def test_what_tenants_get_converges_to_their_weights(weights: tuple[float, float]):
    """Both always want more; whole cores, so within one of eight at any moment, and closer over time."""
    tenants = {"a": Tenant(weight=weights[0]), "b": Tenant(weight=weights[1])}
    got = {"a": 0.0, "b": 0.0}
    work = [
        Load(f"{name}-{n:04}", name, "standard", 0.0, runs_s=60.0 + (7 * n) % 50, cpus=1, gpus=1)
        for name in tenants
        for n in range(500)
    ]
    run = simulation(tenants)
    run.run(work)
    for story in run.stories.values():
        assert story.started is not None
        if story.started < 5_000.0:
            got[story.load.tenant] += story.load.runs_s
    assert got["a"] / (got["a"] + got["b"]) == pytest.approx(weights[0] / sum(weights), abs=0.03)


def test_a_preempted_job_goes_on_where_it_was_and_the_urgent_one_starts_at_once():
    spare = Load("spare", "a", "spare", 0.0, runs_s=1000.0, cpus=1, gpus=8)
    urgent = Load("urgent", "b", "urgent", 300.0, runs_s=100.0, cpus=1, gpus=4)
    run = simulation({"a": Tenant(), "b": Tenant()})
    assert run.run([spare, urgent]) == pytest.approx(1000.0 + 100.0)
    assert run.stories["urgent"].started == pytest.approx(310.0)
    assert (run.stories["spare"].preemptions, run.preemptions) == (1, 1)


def test_the_benchmark_is_a_function_of_its_seed():
    again = [simulate("stylefoundry", loads(300, 32, seed), 32)._replace(took_s=0.0) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_urgent_jobs_wait_less_and_tenants_fare_more_evenly_than_first_come_first_served():
    jobs = loads(1500, 64, 0)
    fifo, backfill, ours = (
        simulate(name, jobs, 64) for name in ("first come", "first come + backfill", "stylefoundry")
    )

    def mean(row: Any, kind: str) -> float:
        return float(sum(row.waited_s[kind]) / len(row.waited_s[kind]))

    for other in (fifo, backfill):
        assert mean(ours, "urgent") < mean(other, "urgent") / 5
        assert mean(ours, "standard") < mean(other, "standard")
        assert ours.jain > other.jain
        assert ours.utilisation > 0.95 * other.utilisation
    assert max(ours.waited_s["short"]) < min(60.0, mean(fifo, "short"))


def test_fair_parts_go_by_weight_and_to_nobody_more_than_wanted():
    assert fair_parts({"a": 1, "b": 100, "c": 100}, {"a": 1, "b": 1, "c": 2}, 10) == {"a": 1, "b": 3, "c": 6}
    assert sum(fair_parts(dict.fromkeys(WEIGHTS, 5.0), WEIGHTS, 20).values()) == pytest.approx(20)
    assert jain([1, 1, 1]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
