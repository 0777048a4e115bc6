"""When a lease may be taken back: by the watcher's own clock alone."""

from __future__ import annotations

from orchestrator.dispatch.watch import LeaseWatch
from orchestrator.store.queue import Ticket

JOB = Ticket("job_1", 1)


def test_a_lease_that_stands_still_for_two_leases_is_expired_and_not_before():
    watch = LeaseWatch(lease_s=15.0)
    assert watch.expired({JOB: 100.0}, now_s=0.0) == []
    assert watch.expired({JOB: 100.0}, now_s=29.9) == []
    assert watch.expired({JOB: 100.0}, now_s=30.0) == [JOB]


def test_a_lease_that_moves_never_expires_however_the_databases_clock_jumps():
    watch = LeaseWatch(lease_s=15.0)
    for second, lease in enumerate([100.0, 3700.0, 50.0, 51.0] * 30):
        assert watch.expired({JOB: lease}, now_s=float(second) * 10) == []


def test_an_interruption_starts_the_watch_anew():
    watch = LeaseWatch(lease_s=15.0)
    watch.expired({JOB: 100.0}, now_s=0.0)
    watch.interrupted()
    assert watch.expired({JOB: 100.0}, now_s=40.0) == []
    assert watch.expired({JOB: 100.0}, now_s=70.0) == [JOB]


def test_a_new_attempt_is_watched_from_its_own_start():
    watch = LeaseWatch(lease_s=15.0)
    watch.expired({JOB: 100.0}, now_s=0.0)
    assert watch.expired({Ticket("job_1", 2): 100.0}, now_s=31.0) == []
