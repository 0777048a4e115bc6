"""Who is next: the rules of docs/scheduling.md, one by one, and what must hold in any situation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from orchestrator.scheduling.classes import DEFAULT_CLASSES, parse_classes
from orchestrator.scheduling.nodes import held
from orchestrator.scheduling.outlook import look_ahead, turns
from orchestrator.scheduling.policy import decide, needs_running
from orchestrator.scheduling.reserve import reserve, room_for
from orchestrator.scheduling.scene import RULES, UNKNOWN, Lane, Scene, granted
from orchestrator.scheduling.shares import HALF_LIFE_S, Room, Tenant
from tests.orchestrator.scenes import NOW, lane, runs, scene, scenes, waits


def started(scene: Scene) -> list[tuple[str, int]]:
    """The jobs that start, one after the other, with their workers, until none may."""
    found = []
    while (grant := decide(scene).grant) is not None:
        found.append((grant.job.id, grant.workers))
        apply(scene, grant)
    return found


def apply(scene: Scene, grant: Any) -> None:
    one: Lane = grant.lane
    one.jobs = [job for job in one.jobs if job.id != grant.job.id]
    cpus, gpus = one.cpus * grant.workers, one.gpus * grant.workers
    scene.tenants[one.tenant].hold(cpus, gpus, scene.now)
    if grant.warm:
        scene.warm -= 1
    else:
        taken = held(grant.places, one.cpus, one.gpus)
        scene.nodes.take(taken)
        run = runs(grant.job.id, cpus, gpus=gpus, held=taken, started=scene.now, ends=scene.now + grant.job.length_s)
        scene.running = sorted([*scene.running, run], key=lambda run: run.ends)


def names(scene: Scene) -> list[str]:
    return [name for name, _ in started(scene)]


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_higher_class_goes_first_then_priority_then_the_earlier_deadline_then_age():
    lanes = [
        lane(waits("young"), waits("younger", since=NOW + 1)),
        lane(waits("due", deadline=NOW + 50)),
        lane("important", priority=1),
        lane("urgent", level=2),
        lane("spare", level=0),
    ]
    assert names(scene(*lanes, cpus=10)) == ["urgent", "important", "due", "young", "younger", "spare"]


def test_of_two_tenants_the_one_that_has_had_less_over_its_weight_is_next():
    had = {"a": Tenant(cpus_mean=2.0, mean_at=NOW), "b": Tenant(cpus_mean=1.0, mean_at=NOW)}
    assert names(scene(lane("a1", tenant="a"), lane("b1", tenant="b"), cpus=1, tenants=had)) == ["b1"]
    had["a"].weight = 4.0
    had["b"].cpus = 0
    assert names(scene(lane("a1", tenant="a"), lane("b1", tenant="b"), cpus=1, tenants=had)) == ["a1"]


def test_what_a_tenant_has_had_fades_by_half_in_a_half_life():
    tenant = Tenant(cpus=4, mean_at=NOW)
    assert tenant.means(NOW + HALF_LIFE_S) == pytest.approx((2.0, 0.0))
    tenant.hold(-4, 0, NOW + HALF_LIFE_S)
    assert tenant.means(NOW + 2 * HALF_LIFE_S) == pytest.approx((1.0, 0.0))


def test_the_dominant_share_is_that_of_the_scarcer_resource():
    assert Tenant(gpus=1, mean_at=NOW).share(Room(100, 2), NOW) == pytest.approx(0.5)
    assert Tenant(cpus=75, gpus=1, mean_at=NOW, weight=3).share(Room(100, 2), NOW) == pytest.approx(0.25)


def test_tenants_alternate_by_their_weights():
    many = [waits(f"{n:02}") for n in range(20)]
    lanes = [lane(*(job._replace(id=name + job.id) for job in many), tenant=name) for name in ("a", "b")]
    order = names(scene(*lanes, cpus=12, tenants={"a": Tenant(weight=2.0)}))
    assert [sum(name[0] == "a" for name in order[:n]) for n in (3, 6, 9, 12)] == [2, 4, 6, 8]


def test_one_in_eight_claims_is_for_the_job_that_waits_longest_if_it_is_overdue():
    old = waits("old", since=NOW - RULES.overdue_s)
    lanes = [lane("urgent", level=2), lane(old, level=0)]
    assert names(scene(*lanes, cpus=1, since_overdue=RULES.overdue_every - 2)) == ["urgent"]
    found = decide(scene(*lanes, cpus=1, since_overdue=RULES.overdue_every - 1)).grant
    assert found is not None
    assert (found.job.id, found.overdue) == ("old", True)
    young = [lane("urgent", level=2), lane("young", level=0)]
    assert names(scene(*young, cpus=1, since_overdue=100)) == ["urgent"]


# --- room, quotas, gangs ----------------------------------------------------------------------------------------------


def test_a_gang_starts_with_as_many_workers_as_fit_or_not_at_all():
    assert started(scene(lane("gang", workers=4, min_workers=2, cpus=2), cpus=7)) == [("gang", 3)]
    assert started(scene(lane("gang", workers=4, min_workers=4, cpus=2), cpus=7)) == []


def test_a_quota_passes_a_tenants_jobs_over_without_holding_anybody_up():
    lanes = [lane("a1", "a2", "a3", tenant="a", priority=9), lane("b1", tenant="b")]
    assert names(scene(*lanes, cpus=8, tenants={"a": Tenant(max_cpus=2)})) == ["a1", "b1", "a2"]


def test_a_quota_lets_a_gang_start_with_fewer_workers():
    quota = {"t": Tenant(max_gpus=3)}
    gang = lane("gang", workers=4, min_workers=2, cpus=1, gpus=1)
    assert started(scene(gang, cpus=8, gpus=8, tenants=quota)) == [("gang", 3)]


def test_a_job_in_back_off_is_passed_over():
    assert names(scene(lane(waits("later", ready_at=NOW + 1), waits("now")), cpus=1)) == ["now"]


def test_short_jobs_take_a_warm_worker_when_everything_else_is_full():
    full = runs("training", 4)
    adapt = lane("adapt", short=True)
    assert names(scene(adapt, running=(full,), warm=1)) == ["adapt"]
    assert names(scene(lane("adapt", short=True), running=(full,))) == []
    big = lane("big", cpus=4, level=2)
    assert names(scene(big, lane("adapt", short=True), running=(full,), warm=1)) == ["adapt"], "past a reservation too"


# --- nodes ------------------------------------------------------------------------------------------------------------

TWO_NODES = {"n1": Room(4, 0), "n2": Room(4, 0)}


def on(node: str, name: str, cpus: int, **changes: Any) -> Any:
    return runs(name, cpus, held={node: Room(cpus, 0)}, **changes)


def places(scene: Scene) -> dict[str, int] | None:
    grant = decide(scene).grant
    return None if grant is None else dict(grant.places)


def test_a_worker_has_its_cores_on_one_node_whatever_there_is_in_all():
    waiting = [lane("huge", cpus=6, priority=1), lane("small")]
    assert told(scene(*waiting, rooms=TWO_NODES))["huge"] == ("size", 1, None)
    assert names(scene(*waiting, rooms=TWO_NODES)) == ["small"], "no room is kept for what no node could hold"


def test_a_gang_waits_for_nodes_that_hold_its_workers_or_starts_with_fewer():
    full = (on("n2", "two", 2, ends=NOW + 9),)
    waiting = scene(lane("gang", cpus=3, workers=2, min_workers=2), rooms=TWO_NODES, running=full)
    assert told(waiting)["gang"] == ("nodes", 1, 9.0), "6 are free, 4 here and 2 there"
    assert started(waiting) == []
    fewer = lane("gang", cpus=3, workers=2, min_workers=1)
    assert started(scene(fewer, rooms=TWO_NODES, running=full)) == [("gang", 1)]


def test_workers_go_where_least_is_left_over_and_a_gang_to_few_nodes():
    taken = (on("n2", "two", 2),)
    assert places(scene(lane("one", cpus=2), rooms=TWO_NODES, running=taken)) == {"n2": 1}
    gang = lane("gang", cpus=1, workers=3, min_workers=3)
    assert places(scene(gang, rooms=TWO_NODES, running=taken)) == {"n1": 3}
    gang = lane("gang", cpus=1, workers=5, min_workers=5)
    assert places(scene(gang, rooms=TWO_NODES, running=taken)) == {"n1": 4, "n2": 1}
    gpus = {"n1": Room(4, 2), "n2": Room(4, 0)}
    assert places(scene(lane("cores"), rooms=gpus)) == {"n2": 1}, "GPUs are left to those who need them"


@pytest.mark.parametrize("ends", [NOW + 100, UNKNOWN], ids=["known", "unknown"])
def test_room_is_kept_on_the_nodes_of_the_job_that_waits_and_nowhere_else(ends: float):
    half = (on("n1", "three", 3, ends=UNKNOWN), on("n2", "two", 2, ends=ends))
    waiting = [lane(waits("big", since=NOW - RULES.hold_s), cpus=4, priority=1), lane("small", "other")]
    assert names(scene(*waiting, rooms=TWO_NODES, running=half)) == ["small"], "n2 is nearest to what it needs"


def test_victims_are_chosen_on_a_node_where_they_make_room():
    spread = (
        on("n1", "n1-old", 2, started=NOW - 90), on("n1", "n1-young", 2, started=NOW - 10),
        on("n2", "kept", 2, started=NOW - 80, preemptible=False), on("n2", "youngest", 2, started=NOW - 5),
    )  # fmt: skip
    assert set(victims(*spread, rooms=TWO_NODES, wants=4)) == {"n1-old", "n1-young"}
    assert victims(*spread[2:], *spread[:1], on("n1", "fixed", 2, preemptible=False), rooms=TWO_NODES, wants=4) == []


# --- reservations -----------------------------------------------------------------------------------------------------

TWO_FREE_IN_100_S = (runs("half", 2, ends=NOW + 100),)


@pytest.mark.parametrize(
    ("length_s", "passes"), [(99.0, True), (101.0, False), (UNKNOWN, False)], ids=["short", "long", "unknown"]
)
def test_a_job_passes_a_bigger_one_only_if_it_ends_before_that_can_start(length_s: float, passes: bool):
    lanes = [lane("big", cpus=4, priority=1), lane(waits("small", length_s=length_s))]
    assert names(scene(*lanes, running=TWO_FREE_IN_100_S)) == (["small"] if passes else [])


def test_a_job_of_any_length_passes_if_it_takes_what_the_bigger_one_leaves():
    lanes = [lane("big", cpus=3, priority=1), lane("small", "smaller")]
    assert names(scene(*lanes, running=TWO_FREE_IN_100_S)) == ["small"]


def test_the_first_one_that_is_short_enough_passes_though_a_long_one_of_its_kind_waits_before_it():
    lanes = [lane("big", cpus=4, priority=1), lane(waits("long", length_s=500), waits("short", length_s=50))]
    assert names(scene(*lanes, running=TWO_FREE_IN_100_S)) == ["short"]


def test_where_no_end_is_known_all_pass_at_first_and_later_only_those_who_cannot_delay():
    unknown = (runs("half", 2),)
    lanes = [lane("big", cpus=4, priority=1), lane("small")]
    assert names(scene(*lanes, running=unknown)) == ["small"]
    waited = waits("big", since=NOW - RULES.hold_s)
    lanes = [lane(waited, cpus=4, priority=1), lane("small")]
    assert names(scene(*lanes, running=unknown)) == []
    lanes = [lane(waited, cpus=0, gpus=2, priority=1), lane("small")]
    assert names(scene(*lanes, gpus=2, running=(runs("gpu", 0, gpus=1),))) == ["small"], "it needs no core"


def test_no_room_is_kept_for_what_the_whole_cluster_could_not_hold():
    assert names(scene(lane("huge", cpus=99, priority=1), lane("small"), running=TWO_FREE_IN_100_S)) == ["small"]


# --- preemption -------------------------------------------------------------------------------------------------------


def victims(*running: Any, cpus: int = 4, wants: int = 2, **changes: Any) -> list[str]:
    urgent = lane("urgent", level=2, cpus=wants, preempts=True)
    return list(decide(scene(urgent, cpus=cpus, running=running, **changes)).victims)


def test_the_youngest_of_the_jobs_that_alone_make_enough_room_is_preempted():
    old, young = runs("old", 2, started=NOW - 500), runs("young", 2, started=NOW - 5)
    assert victims(old, young) == ["young"]
    assert victims(runs("one", 1), old, runs("other", 1)) == ["old"], "one victim rather than two"


def test_nobody_is_preempted_without_need_or_use():
    full = runs("full", 4)
    assert victims(full) == ["full"]
    assert victims(runs("full", 4, preemptible=False)) == []
    assert victims(runs("full", 4, level=2)) == [], "not a lower class"
    assert victims(full, wants=5) == [], "it would not fit anyway"
    assert victims(runs("full", 2), runs("leaving", 2, stopping=True, ends=NOW + 9)) == [], "room comes already"
    assert victims(runs("full", 4, ends=NOW + 30)) == [], "it ends soon"
    assert victims(runs("full", 4, preemptions=RULES.most_preemptions)) == [], "it was preempted often enough"
    assert victims(runs("half", 2)) == [], "it fits"


def test_a_class_that_does_not_preempt_waits():
    assert decide(scene(lane("job", level=2, cpus=2), running=(runs("full", 4),))).victims == ()


# --- any situation ----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scenes())
def test_grants_never_exceed_room_or_quota_and_nobody_starts_twice(scene: Scene):
    before = {name: (t.cpus, t.gpus) for name, t in scene.tenants.items()}
    begun = names(scene)
    assert len(set(begun)) == len(begun)
    for node, room in scene.nodes.rooms.items():
        assert min(room) >= 0, node
    assert scene.warm >= 0
    for name, tenant in scene.tenants.items():
        assert tenant.max_cpus is None or tenant.cpus <= max(tenant.max_cpus, before[name][0])
        assert tenant.max_gpus is None or tenant.gpus <= max(tenant.max_gpus, before[name][1])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scenes())
def test_every_worker_of_a_grant_has_a_place_on_a_node_that_holds_it(scene: Scene):
    grant = decide(scene).grant
    if grant is None or grant.warm:
        return
    assert sum(grant.places.values()) == grant.workers
    for node, workers in grant.places.items():
        room = scene.nodes.rooms[node]
        assert room.fits(grant.lane.cpus * workers, grant.lane.gpus * workers)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scenes())
def test_no_room_stays_idle_that_an_eligible_job_could_take_but_for_a_reservation(scene: Scene):
    started(scene)
    kept = decide(scene).held
    for one in scene.lanes:
        for job in one.jobs:
            fits = granted(one, scene.nodes, scene.tenants[one.tenant].left(scene.free))
            if job.ready_at > scene.now or not fits or decide(scene).victims:
                continue
            assert kept is not None, f"{job.id} could start"
            room = room_for(scene, job, kept)
            assert not granted(one, room, scene.tenants[one.tenant].left(room.sum))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scenes())
def test_victims_make_enough_room_and_none_of_them_is_superfluous(scene: Scene):
    decision = decide(scene)
    if not decision.victims:
        return
    assert decision.grant is None
    assert decision.held is not None
    need = decision.held.lane
    chosen = [run for run in scene.running if run.id in decision.victims or run.stopping]

    def enough(gone: list[Any]) -> bool:
        nodes = scene.nodes.copy()
        for run in gone:
            nodes.give(run.held)
        return bool(granted(need, nodes))

    assert enough(chosen)
    for victim in [run for run in chosen if run.id in decision.victims]:
        assert victim.preemptible
        assert victim.level < need.level
        assert not enough([run for run in chosen if run is not victim])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(scenes())
def test_running_jobs_matter_only_where_somebody_does_not_fit(scene: Scene):
    if not needs_running(scene):
        with_running = decide(scene)
        scene.running = ()
        assert decide(scene) == with_running


@settings(max_examples=200, deadline=None, derandomize=True)
@given(scenes())
def test_a_passing_job_of_known_length_never_delays_the_job_that_room_is_kept_for(scene: Scene):
    decision = decide(scene)
    if decision.held is None or decision.grant is None or decision.grant.warm or decision.held.at == UNKNOWN:
        return
    kept, grant = decision.held, decision.grant
    apply(scene, grant)
    assert reserve(scene, kept.lane, kept.job).at <= kept.at


# --- the outlook ------------------------------------------------------------------------------------------------------


def told(scene: Scene) -> dict[str, tuple[str, int | None, float | None]]:
    seen = look_ahead(scene, most=200).prospects
    return {name: (p.reason, p.position, None if p.start is None else p.start - NOW) for name, p in seen.items()}


def test_every_waiting_job_is_told_why_where_and_when():
    lanes = [
        lane(waits("big", length_s=500), cpus=4, priority=1),
        lane(waits("brief", length_s=50), waits("long", length_s=500, since=NOW + 1), waits("later", since=NOW + 2)),
        lane("barred", tenant="other", level=2),
    ]
    seen = told(scene(*lanes, running=TWO_FREE_IN_100_S, tenants={"other": Tenant(max_cpus=0)}))
    assert seen == {
        "big": ("room", 1, 100.0),
        "brief": ("queue", 2, 600.0),
        "long": ("reservation", 3, 600.0),
        "later": ("reservation", 4, 600.0),
        "barred": ("quota", None, None),
    }


def test_behind_a_job_that_waits_for_an_unknown_end_no_start_is_promised():
    lanes = [lane("big", cpus=4, priority=1), lane("small")]
    assert {start for _, _, start in told(scene(*lanes, running=(runs("half", 2),))).values()} == {None}


def test_a_job_in_back_off_keeps_its_place_and_says_so():
    assert told(scene(lane(waits("failed", ready_at=NOW + 5), "next"))) == {
        "failed": ("backoff", 1, 5.0),
        "next": ("queue", 2, 0.0),
    }


def test_what_is_not_read_to_its_end_is_named_as_lying_beyond():
    cut = lane("a", "b", is_whole=False)
    after = lane("c", priority=-1)
    seen = look_ahead(scene(cut, after), most=200)
    assert sorted(seen.prospects) == ["a", "b"]
    assert seen.beyond == {cut.key: "queue", after.key: "queue"}
    few = look_ahead(scene(lane("a", "b", "c")), most=2)
    assert sorted(few.prospects) == ["a", "b"]
    assert list(few.beyond.values()) == ["queue"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(scenes())
def test_places_are_one_two_three_and_follow_the_policys_order(scene: Scene):
    seen = look_ahead(scene, most=200)
    places = [p.position for p in seen.prospects.values() if p.position is not None]
    assert places == list(range(1, len(places) + 1))
    order = [turn.job.id for turn in turns(scene)]
    for one in scene.lanes:
        mine = [job.id for job in one.jobs]
        assert [name for name in order if name in mine] == mine, "a lane keeps its order"


# --- declared classes -------------------------------------------------------------------------------------------------


def test_the_usual_classes():
    declared = parse_classes(DEFAULT_CLASSES)
    assert [name for name, _ in sorted(declared.items(), key=lambda item: item[1].level)] == list(declared)
    assert {name: (c.preemptible, c.preempts) for name, c in declared.items()} == {
        "spare": (True, False),
        "standard": (False, False),
        "urgent": (False, True),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "standard"),
        ('{"standard": {}}', "standard needs an object with a level"),
        ('{"standard": {"level": "high"}}', "level of standard is 'high'"),
        ('{"standard": {"level": 1, "boost": true}}', "boost"),
    ],
)
def test_classes_that_cannot_be_read_are_refused_by_name(text: str, told: str):
    with pytest.raises(ValueError, match=told):
        parse_classes(text)
