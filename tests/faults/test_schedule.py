"""Preemption and deadlines on a whole embedded stack: what docs/scheduling.md says, seen by a user."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stylefoundry.types import Job
from tests.faults.stack import running
from tests.faults.work import STEPS, Work
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

MIDDLE = 30
# So many that the rest of them takes a minute: nobody is preempted who will have ended by then.
LONG: dict[str, Any] = {"steps": 6000, "checkpoint_every": 6000, "preview_every": 6000}
OWN_ONLY = {"checkpoint_every": STEPS}  # in the middle there is a checkpoint only where somebody asked for one
ENDLESS = {"steps": 1_000_000, "checkpoint_every": 1_000_000, "preview_every": 1_000_000}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """One core: whoever has it has all."""
    with running(tmp_path_factory.mktemp("schedule") / "data", {}, cpus=1) as started:
        yield started


@pytest.fixture(scope="module")
def untouched(service: Work) -> Job:
    return service.wait_for_end(service.submit("untouched", config=OWN_ONLY).id)


def story(service: Work, job: Job) -> list[tuple[str, str]]:
    with service.client() as client:
        return [(e.body["status"], e.body["reason"]) for e in client.events(job.id) if e.event == "status"]


def told_at(service: Work, job: Job, status: str) -> list[datetime]:
    with service.client() as client:
        return [e.at for e in client.events(job.id) if e.event == "status" and e.body["status"] == status]


def wait_for(service: Work, job: Job, status: str, timeout_s: float = 300) -> Job:
    with service.client() as client:

        def there() -> Job | None:
            seen = client.job(job.id)
            assert seen.phase != "terminal" or seen.status == status, seen
            return seen if seen.status == status else None

        return wait_until(there, timeout_s, f"{job.name} is {status}")


def deadline_in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.slow
def test_a_preempted_job_makes_room_and_loses_no_step(service: Work):
    untouched = service.wait_for_end(service.submit("untouched-long", config=LONG).id)
    spare = service.submit("spare", config=LONG, **{"class": "spare"})
    service.wait_for_step(spare.id, MIDDLE)
    urgent = service.wait_for_end(service.submit("urgent", config={"steps": 20}, **{"class": "urgent"}).id)
    spare = service.wait_for_end(spare.id)

    assert story(service, spare) == [
        ("queued", "submitted"), ("starting", "claimed"), ("running", "began"), ("preempting", "preempted"),
        ("queued", "stopped"), ("starting", "claimed"), ("running", "began"), ("succeeded", "finished"),
    ]  # fmt: skip
    assert (urgent.attempt, urgent.preemptions, spare.preemptions) == (1, 0, 1)
    left, came_back = told_at(service, spare, "queued")[1], told_at(service, spare, "running")[1]
    assert left <= told_at(service, urgent, "starting")[0]
    assert told_at(service, urgent, "succeeded")[0] <= came_back
    assert_goes_on_with_the_next_step(service, spare)
    service.assert_every_step_once(spare)
    assert service.model_bytes_digest(spare) == service.model_bytes_digest(untouched)


def assert_goes_on_with_the_next_step(service: Work, job: Job) -> None:
    """The second attempt begins where the first one, which was asked to stop, has ended."""
    with service.client() as client:
        attempts, events = client.attempts(job.id), client.events(job.id)
    assert [attempt.outcome for attempt in attempts] == ["preempted", "succeeded"]
    stopped = attempts[1].resumed_from
    assert stopped is not None
    assert stopped >= MIDDLE
    steps: dict[int, list[int]] = {1: [], 2: []}
    for event in events:
        if event.event == "metric":
            steps[event.attempt] += [step for points in event.body["points"].values() for step, _ in points]
    assert (max(steps[1]), min(steps[2])) == (stopped, stopped + 1)


def test_deadlines_end_what_waits_and_what_runs(service: Work, untouched: Job):
    """The running one has as long to begin as one took before, and more."""
    assert untouched.started_at is not None
    usual_s = (untouched.started_at - untouched.created_at).total_seconds()
    at_work = service.submit("at-work", config=ENDLESS, deadline=deadline_in(5 + 3 * usual_s))
    service.wait_for_step(at_work.id, 1)

    waits = service.submit("waits", deadline=deadline_in(1))
    waits = wait_for(service, waits, "expired")
    assert story(service, waits) == [("queued", "submitted"), ("expired", "deadline")]
    assert_timed_out(waits, attempt=0)
    with service.client() as client:
        assert client.attempts(waits.id) == []
        assert client.quota().cpus.held == 1, "the other one's"

    at_work = wait_for(service, at_work, "expired")
    assert [status for status, _ in story(service, at_work)] == ["queued", "starting", "running", "expired"]
    assert story(service, at_work)[-1] == ("expired", "timeout")
    assert_timed_out(at_work, attempt=1)
    with service.client() as client:
        (attempt,), (kept,) = client.attempts(at_work.id), client.checkpoints(at_work.id)
        assert attempt.outcome == "expired"
        assert kept.step == at_work.progress.step, "its last step is kept for a retry"
        assert (client.quota().cpus.held, client.quota().waiting.held) == (0, 0)
    assert service.wait_for_end(service.submit("afterwards", config={"steps": 20}).id).attempt == 1


def assert_timed_out(job: Job, **expected: Any) -> None:
    assert job.deadline is not None
    assert job.finished_at is not None
    assert job.finished_at >= job.deadline
    assert job.error is not None
    assert (job.error.type, job.error.attempt) == ("timeout", expected["attempt"])
    assert job.error.message == "its deadline has passed before it had ended"
