"""The policy carried out in SQL, on both databases: quotas, classes, preemption, deadlines, warm workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.states import ErrorType, Move
from orchestrator.store import accounts, claims, deadlines, jobs, lanes, queue, scenes
from orchestrator.store.database import Database, db_now
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import Job, Ledger, Tenant
from tests.orchestrator.queueing import (
    TENANT,
    add_tenant,
    attempts,
    begin,
    claim,
    give_room,
    job,
    queue_job,
    room_taken,
    started,
    status,
    status_events,
)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    give_room(database)
    yield database
    database.dispose()


def claimed(db: Database) -> list[str]:
    """Everything that may start, in its order."""
    found = []
    while (ticket := claim(db)) is not None:
        found.append(ticket.job_id)
    return found


def tenant(db: Database, name: str = TENANT) -> Tenant:
    with db.read() as tx:
        return tx.get_one(Tenant, name)


def make_room(db: Database) -> list[str]:
    with db.write() as tx:
        return [moved.job_id for moved in claims.make_room(tx)]


def told(db: Database, *names: str) -> list[tuple[str, int | None]]:
    with db.read() as tx:
        shown = jobs.shown(tx, [tx.get_one(Job, name) for name in names])
    return [(one.waiting.reason, one.waiting.position) for one in shown if one.waiting is not None]


# --- order and quotas -------------------------------------------------------------------------------------------------


def test_a_higher_class_goes_first_whoever_came_first(db: Database):
    for name, class_ in (("job_1", "spare"), ("job_2", "standard"), ("job_3", "urgent"), ("job_4", "unheard-of")):
        queue_job(db, name, class_=class_)
    assert claimed(db)[:2] == ["job_3", "job_2"]


def test_the_room_of_a_tenant_is_taken_and_given_back_with_the_ledgers(db: Database):
    ticket = started(db, "job_1", cpus=2)
    assert (tenant(db).cpus_taken, room_taken(db)) == (2, 2)
    with db.write() as tx:
        queue.finish(tx, ticket, None)
    assert (tenant(db).cpus_taken, room_taken(db)) == (0, 0)


def test_no_tenant_gets_more_than_its_quota_while_the_others_go_on(db: Database):
    add_tenant(db, TENANT, max_cpus=1)
    add_tenant(db, "tenant_2")
    for n in range(3):
        queue_job(db, f"job_1{n}", priority=9)
        queue_job(db, f"job_2{n}", tenant="tenant_2")
    assert sorted(claimed(db)) == ["job_10", "job_20", "job_21", "job_22"]
    assert told(db, "job_11", "job_12") == [("quota", None)] * 2


def test_a_quota_that_is_lowered_ends_nothing_and_starts_nothing(db: Database):
    started(db, "job_1", cpus=2)
    queue_job(db, "job_2")
    with db.write() as tx:
        tx.execute(update(Tenant).values(max_cpus=1))
    assert claimed(db) == []
    assert status(db, "job_1") == "running"


def test_a_gang_is_granted_what_fits_and_no_less_than_its_fewest_workers(db: Database):
    give_room(db, cpus=5)
    queue_job(db, "job_1", cpus=2, workers=4, min_workers=2)
    queue_job(db, "job_2", cpus=1, workers=4, min_workers=2)
    with db.write() as tx:
        first = claims.claim_next(tx, owner="d", lease_s=15.0)
    assert first is not None
    assert (first.ticket.job_id, first.workers, room_taken(db)) == ("job_1", 2, 4)
    assert claimed(db) == []
    with db.write() as tx:
        queue.lost(tx, first.ticket, "gone")
    assert room_taken(db) == 0


def two_nodes(db: Database) -> None:
    with db.write() as tx:
        claims.set_room(tx, cpus=8, gpus=0, nodes={"n1": (4, 0), "n2": (4, 0)})


def test_a_job_that_no_node_could_hold_takes_no_room_and_is_told_so(db: Database):
    two_nodes(db)
    queue_job(db, "job_1", cpus=6)
    queue_job(db, "job_2")
    assert claimed(db) == ["job_2"]
    assert told(db, "job_1") == [("size", 1)]
    assert room_taken(db) == 1


def test_a_gang_is_placed_on_nodes_that_hold_its_workers(db: Database):
    two_nodes(db)
    holder = started(db, "job_1", cpus=2)
    queue_job(db, "job_2", cpus=3, workers=2, min_workers=2)
    assert claimed(db) == []
    assert told(db, "job_2") == [("nodes", 1)]
    with db.write() as tx:
        queue.finish(tx, holder, None)
        gang = claims.claim_next(tx, owner="d", lease_s=15.0)
    assert gang is not None
    assert sorted(gang.nodes) == ["n1", "n2"]
    assert attempts(db, "job_2")[0].nodes == {"n1": 1, "n2": 1}
    assert [attempt.nodes for attempt in attempts(db, "job_1")] in ([{"n1": 1}], [{"n2": 1}])


def test_what_runs_where_no_node_is_known_takes_room_from_any(db: Database):
    started(db, "job_1", cpus=3)  # claimed while the cluster was one node
    two_nodes(db)
    queue_job(db, "job_2", cpus=2)
    queue_job(db, "job_3", cpus=2)
    queue_job(db, "job_4", cpus=2)
    assert claimed(db) == ["job_2", "job_3"], "5 are left: 1 and 4"


def test_a_small_job_passes_a_big_one_that_waits_for_jobs_of_unknown_length_only_for_a_while(db: Database):
    started(db, "job_0", cpus=2)
    queue_job(db, "job_1", cpus=4, priority=1)
    queue_job(db, "job_2")
    assert claimed(db) == ["job_2"]
    with db.write() as tx:
        tx.execute(update(Job).where(Job.id == "job_1").values(created_at=Job.created_at - 3600))
    queue_job(db, "job_3")
    assert claimed(db) == []
    assert told(db, "job_1", "job_3") == [("room", 1), ("reservation", 2)]


def test_a_job_with_a_timeout_passes_where_it_ends_in_time(db: Database):
    started(db, "job_0", cpus=3, timeout_s=1000.0)
    queue_job(db, "job_1", cpus=4, priority=1)
    queue_job(db, "job_2", timeout_s=2000.0)
    queue_job(db, "job_3", timeout_s=900.0)
    assert claimed(db) == ["job_3"]


def test_an_overdue_job_has_its_turn_among_a_stream_of_higher_ones(db: Database):
    give_room(db, cpus=1)
    queue_job(db, "job_old", class_="spare", created_at=1.0)
    order = []
    for n in range(10):
        queue_job(db, f"job_{n}", class_="urgent")
        ticket = claim(db)
        assert ticket is not None
        order.append(ticket.job_id)
        begin(db, ticket)
        with db.write() as tx:
            queue.finish(tx, ticket, None)
    assert order.index("job_old") == 7, "one claim in eight"


def test_the_place_of_a_resumed_job_counts_from_its_resumption(db: Database):
    queue_job(db, "job_1", created_at=1.0)
    with db.write() as tx:
        queue.move(tx, "job_1", Move.PAUSE)
        queue.move(tx, "job_1", Move.RESUME)
        now = tx.scalars(select(db_now())).one()
    assert job(db, "job_1").queued_at == pytest.approx(now, abs=60)


# --- many dispatchers -------------------------------------------------------------------------------------------------


def test_dispatchers_that_claim_at_once_exceed_neither_room_nor_quota(db: Database):
    give_room(db, cpus=12)
    add_tenant(db, TENANT, max_cpus=5)
    add_tenant(db, "tenant_2")
    for n in range(16):
        queue_job(db, f"job_1{n:02}")
        queue_job(db, f"job_2{n:02}", tenant="tenant_2")
    barrier = threading.Barrier(4)

    def claim_some(owner: int) -> list[Ticket]:
        barrier.wait()
        return [ticket for _ in range(8) if (ticket := claim(db, f"dispatcher-{owner}")) is not None]

    with ThreadPoolExecutor(4) as pool:
        taken = [ticket.job_id for mine in pool.map(claim_some, range(4)) for ticket in mine]
    taken += claimed(db)  # what was given up where too many claimed at the same moment
    assert len(set(taken)) == len(taken) == 12
    assert sum(name.startswith("job_1") for name in taken) == tenant(db).cpus_taken == 5
    assert (tenant(db, "tenant_2").cpus_taken, room_taken(db)) == (7, 12)


def test_a_decision_about_what_is_no_longer_so_takes_nothing(db: Database):
    queue_job(db, "job_1")
    queue_job(db, "job_2")
    with db.read() as tx:
        turn = tx.scalars(select(Ledger.turn)).one()
    assert claim(db) is not None
    with db.write() as tx:
        assert not claims._take_turn(tx, turn, 1, 0, overdue=False)
    assert room_taken(db) == 1


def test_what_tenants_hold_is_counted_anew_where_an_older_release_did_not(db: Database):
    started(db, "job_1", cpus=2)
    with db.write() as tx:
        tx.execute(update(Tenant).values(cpus_taken=0))
        accounts.settle(tx)
    assert tenant(db).cpus_taken == 2


# --- warm workers -----------------------------------------------------------------------------------------------------


def claim_warm(db: Database, name: str | None) -> claims.Claimed | None:
    with db.write() as tx:
        return claims.claim_next(tx, owner="d", lease_s=15.0, idle_warm=lambda: name)


def test_an_adaptation_goes_to_a_warm_worker_however_full_the_cluster_is(db: Database):
    started(db, "job_0", cpus=4)
    queue_job(db, "job_1", cpus=2, task="adapt")
    assert claim_warm(db, None) is None
    taken = claim_warm(db, "warm-1")
    assert taken is not None
    assert (taken.ticket.job_id, taken.warm, room_taken(db), tenant(db).cpus_taken) == ("job_1", "warm-1", 4, 6)
    begin(db, taken.ticket)
    with db.write() as tx:
        queue.finish(tx, taken.ticket, None)
    assert (room_taken(db), tenant(db).cpus_taken) == (4, 4)


def test_a_training_never_takes_a_warm_worker_and_an_adaptation_without_one_takes_room(db: Database):
    queue_job(db, "job_1")
    queue_job(db, "job_2", task="adapt")
    first, second = claim_warm(db, "warm-1"), claim_warm(db, None)
    assert first is not None
    assert second is not None
    assert [(one.ticket.job_id, one.warm) for one in (first, second)] == [("job_1", None), ("job_2", None)]
    assert room_taken(db) == 2


# --- preemption -------------------------------------------------------------------------------------------------------


def test_a_preempted_job_keeps_its_checkpoint_is_not_charged_and_goes_on_by_itself(db: Database):
    ticket = started(db, "job_1", cpus=4, class_="spare", max_retries=0)
    queue_job(db, "job_2", cpus=2, class_="urgent")
    assert claimed(db) == []
    assert make_room(db) == ["job_1"]
    assert make_room(db) == [], "room comes already"
    step = {"step": 3, "prefix": "c/3", "manifest_sha256": "0" * 64, "files": [], "bytes": 1}
    with db.write() as tx:
        assert queue.record(tx, ticket, Batch(step=3, checkpoints=[step]), lease_s=15.0) == "preempting"
        assert queue.stop(tx, ticket) is not None
    assert (status(db, "job_1"), job(db, "job_1").charged, job(db, "job_1").preemptions) == ("queued", 0, 1)
    assert [attempt.outcome for attempt in attempts(db, "job_1")] == ["preempted"]
    assert status_events(db, "job_1") == ["queued", "starting", "running", "preempting", "queued"]
    assert claimed(db) == ["job_2"]
    with db.write() as tx:
        queue.move(tx, "job_2", Move.CANCEL)
        queue.stop(tx, Ticket("job_2", 1))
    assert claim(db) == ("job_1", 2)


def test_a_worker_that_dies_while_it_makes_room_costs_its_job_no_attempt(db: Database):
    ticket = started(db, "job_1", cpus=4, class_="spare", max_retries=0)
    queue_job(db, "job_2", cpus=2, class_="urgent")
    make_room(db)
    with db.write() as tx:
        queue.lost(tx, ticket, "gone")
    assert (status(db, "job_1"), job(db, "job_1").charged) == ("queued", 0)


@pytest.mark.parametrize(("wish", "end"), [(Move.PAUSE, "paused"), (Move.CANCEL, "cancelled")])
def test_a_users_wish_goes_before_a_preemption(db: Database, wish: Move, end: str):
    ticket = started(db, "job_1", cpus=4, class_="spare")
    queue_job(db, "job_2", cpus=2, class_="urgent")
    make_room(db)
    with db.write() as tx:
        assert queue.move(tx, "job_1", wish) is not None
        queue.stop(tx, ticket)
    assert status(db, "job_1") == end


def test_nobody_makes_room_for_a_class_that_does_not_preempt_or_from_one_that_is_not_preemptible(db: Database):
    started(db, "job_1", cpus=4)
    queue_job(db, "job_2", cpus=2, class_="urgent")
    assert make_room(db) == []


# --- deadlines --------------------------------------------------------------------------------------------------------


def lapse_all(db: Database) -> list[str]:
    with db.write() as tx:
        return [name for name in deadlines.passed(tx) if deadlines.lapse(tx, name) is not None]


def test_what_waits_beyond_its_deadline_expires_and_nothing_else_does(db: Database):
    queue_job(db, "job_late", deadline=1.0)
    queue_job(db, "job_paused", deadline=2.0)
    queue_job(db, "job_early", deadline=4e9)
    queue_job(db, "job_free")
    running = started(db, "job_running", deadline=4e9, priority=9)
    with db.write() as tx:
        queue.move(tx, "job_paused", Move.PAUSE)
        tx.execute(update(Job).where(Job.id == "job_running").values(deadline=1.0))
    assert lapse_all(db) == ["job_late", "job_paused"]
    assert lapse_all(db) == []
    late = job(db, "job_late")
    assert (late.status, late.error and late.error["type"]) == ("expired", ErrorType.TIMEOUT)
    assert late.finished_at is not None
    assert [status(db, name) for name in ("job_early", "job_free", "job_running")] == ["queued", "queued", "running"]
    with db.read() as tx:
        left = deadlines.seconds_left(tx, running.job_id)
        assert deadlines.seconds_left(tx, "job_free") is None
    assert left is not None
    assert left < 0


def test_of_equal_jobs_the_one_with_the_earlier_deadline_goes_first(db: Database):
    for name, deadline in (("job_1", 4e9), ("job_2", 3e9), ("job_3", 5e9)):
        queue_job(db, name, deadline=deadline)
    queue_job(db, "job_0")
    assert claimed(db) == ["job_2", "job_1", "job_3", "job_0"]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_jobs_of_an_older_release_without_a_lane_are_claimed_like_the_others(db: Database):
    queue_job(db, "job_1", lane="", cpus=9)
    queue_job(db, "job_2", lane="", priority=1)
    queue_job(db, "job_3", priority=2)
    queue_job(db, "job_4", lane="")
    assert claimed(db) == ["job_3", "job_2", "job_4"]


def test_one_tenants_many_kinds_of_jobs_hide_nobody_elses(db: Database):
    crowd = "tenant_" + 26 * "1"
    for n in range(scenes.MOST_LANES + 5):
        queue_job(db, f"job_a{n:03}", tenant=crowd, priority=n)
    for n in range(2):
        queue_job(db, f"job_b{n}", tenant="tenant_" + 26 * "2", priority=n)
    with db.read() as tx:
        seen = scenes.look(tx, scenes.CLASSES, width=4, ready_only=True).scene
        assert scenes.count_lanes(tx) == scenes.MOST_LANES + 2
    assert sum(lane.tenant == crowd for lane in seen.lanes) == scenes.MOST_LANES
    assert [lane.jobs[0].id for lane in seen.lanes if lane.tenant != crowd] == ["job_b0", "job_b1"]


def test_of_a_long_lane_only_the_first_jobs_are_read(db: Database):
    for n in range(40):
        queue_job(db, f"job_{n:02}")
    with db.read() as tx:
        (lane,) = scenes.look(tx, scenes.CLASSES, width=16, ready_only=True).scene.lanes
    assert [job.id for job in lane.jobs] == [f"job_{n:02}" for n in range(16)]
    assert not lane.is_whole


def test_a_lane_tells_apart_what_decides_about_room():
    shape: tuple[int, int, int, int] = (1, 0, 1, 1)
    kinds: list[dict[str, Any]] = [{"short": False, "has_deadline": False}, {"short": True, "has_deadline": False}]
    keys = {lanes.key_of("tenant_1", "standard", priority, shape, **kind) for priority in (0, 1) for kind in kinds}
    assert len(keys) == 4
    first, last = lanes.of_tenant("tenant_1")
    assert all(first <= key < last for key in keys)
