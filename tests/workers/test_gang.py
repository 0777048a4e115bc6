"""Several workers on one attempt: rank 0 writes, all leave together, and nobody waits for the dead.

The workers are threads of this process that meet and talk as processes on different nodes do; `tests/faults` has those.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.states import ErrorType, Move
from orchestrator.store.queue import Ticket
from tests.waiting import wait_until
from tests.workers.bench import TRAIN, Bench
from tests.workers.running import wait_for_step
from workers.attempt import run_attempt
from workers.gang import Meeting, MemberFailed, Pulse, Seat
from workers.inputs import Encoders
from workers.member import follow
from workers.work import Host

HERE = "127.0.0.1"
SHARED: Mapping[str, Any] = {**TRAIN, "meta_batch": 2}
LONG: Mapping[str, Any] = {**SHARED, "steps": 40, "checkpoint_every": 10, "preview_every": 40}
GANG: Mapping[str, Any] = {"workers": 2, "min_workers": 1, "seed": 7}


def lead(bench: Bench, ticket: Ticket, workers: int, meeting: Meeting, **settings: Any) -> str:
    platform = replace(bench.platform, settings=bench.platform.settings.model_copy(update=settings))
    host = Host(f"run-{ticket.job_id}-{ticket.attempt}", "node", 1)
    return run_attempt(ticket, platform, Encoders(platform), host, Seat(0, workers, meeting))


def join(bench: Bench, ticket: Ticket, rank: int, workers: int, address: str) -> str:
    seat = Seat(rank, workers, Meeting.join(address, HERE))
    return follow(ticket, bench.platform, Encoders(bench.platform), seat)


class GangAtWork:
    """A gang on the next job of the queue; leaving waits for its workers."""

    def __init__(self, bench: Bench, workers: int) -> None:
        self.ticket = bench.claim()
        meeting = Meeting.open(HERE)
        self._threads = ThreadPoolExecutor(workers)
        self.leader = self._threads.submit(lead, bench, self.ticket, workers, meeting)
        # These workers are threads: another one that seeds random numbers would change the first one's new weights.
        wait_until(lambda: meeting.store.check(["ready/0"]) or self.leader.done(), 60, "rank 0 has built its task")
        self.others = [
            self._threads.submit(join, bench, self.ticket, rank, workers, meeting.address) for rank in range(1, workers)
        ]

    def outcomes(self) -> list[str]:
        found = [worker.result(60) for worker in (self.leader, *self.others)]
        self._threads.shutdown()
        return found


def finished(bench: Bench, workers: int, **options: Any) -> str:
    job_id = bench.submit("metastyle/train", **{"config": LONG, **GANG, **options})
    expected = ["succeeded", *["left"] * (workers - 1)]
    assert GangAtWork(bench, workers).outcomes() == expected
    return job_id


def test_two_workers_train_what_one_does_and_rank_0_alone_writes(stocked: Bench) -> None:
    job_id = finished(stocked, 2, config=SHARED)
    alone = stocked.finished("metastyle/train", config=SHARED, seed=7)

    assert [attempt.workers for attempt in stocked.attempts(job_id)] == [2]
    assert [c.step for c in stocked.checkpoints(job_id)] == [2, 4, 6]
    assert {event.body["step"] for event in stocked.events(job_id, "sample")} == {3, 6}
    assert "2 workers, each on cpu with 1 threads" in stocked.log_text(job_id)
    for term in ("content_loss", "style_loss", "total_loss"):
        assert stocked.metric(job_id, term) == pytest.approx(stocked.metric(alone.id, term), rel=1e-3), term
    assert stocked.model(job_id).version == 1


def test_a_gang_that_was_interrupted_ends_with_the_bytes_of_one_that_was_not(stocked: Bench) -> None:
    uninterrupted = finished(stocked, 2)

    job_id = stocked.submit("metastyle/train", config=LONG, **GANG)
    gang = GangAtWork(stocked, 2)
    wait_for_step(stocked, job_id, 5)
    stocked.move(job_id, Move.PAUSE)
    assert gang.outcomes() == ["paused", "left"], "all leave at the same step"
    paused_at = stocked.job(job_id).step
    assert paused_at < LONG["steps"]
    stocked.move(job_id, Move.RESUME)
    assert GangAtWork(stocked, 2).outcomes() == ["succeeded", "left"]

    assert stocked.attempts(job_id)[1].resumed_from == paused_at
    assert sorted(stocked.metric(job_id, "total_loss")) == list(range(1, 41))
    assert stocked.model_bytes(job_id) == stocked.model_bytes(uninterrupted)


def test_the_next_attempt_may_have_another_number_of_workers(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, **GANG)
    gang = GangAtWork(stocked, 2)
    wait_for_step(stocked, job_id, 5)
    stocked.move(job_id, Move.PAUSE)
    assert gang.outcomes() == ["paused", "left"]
    stocked.move(job_id, Move.RESUME)

    assert stocked.run(stocked.claim()) == "succeeded"

    assert sorted(stocked.metric(job_id, "total_loss")) == list(range(1, 41))


def test_what_a_worker_could_not_do_is_the_error_of_the_job(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, **GANG)
    ticket, meeting = stocked.claim(), Meeting.open(HERE)
    Meeting.join(meeting.address, HERE).say_failed(1, ErrorType.OUT_OF_MEMORY, "8 GiB were asked for")

    assert lead(stocked, ticket, 2, meeting) == "queued"

    error = stocked.attempts(job_id)[0].error
    assert error == {"type": "out_of_memory", "message": "worker 1 of 2: 8 GiB were asked for", "attempt": 1}
    assert stocked.job(job_id).charged == 1


def test_a_job_whose_other_worker_does_not_come_goes_back_to_the_queue_uncharged(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config=LONG, **GANG)
    ticket = stocked.claim()

    assert lead(stocked, ticket, 2, Meeting.open(HERE), join_s=0.5) == "queued"

    error = stocked.attempts(job_id)[0].error
    assert error is not None
    assert (error["type"], stocked.job(job_id).charged) == ("lost", 0)
    assert "worker 1 of 2 was not ready within" in error["message"]


def test_a_gang_that_was_given_up_leaves_as_one(stocked: Bench) -> None:
    job_id = stocked.submit("metastyle/train", config={**LONG, "steps": 5000, "checkpoint_every": 5}, **GANG)
    gang = GangAtWork(stocked, 2)
    wait_until(lambda: stocked.checkpoints(job_id), 60, "a checkpoint is there")
    stocked.lose(gang.ticket)

    assert gang.outcomes() == ["superseded", "left"]
    assert (stocked.job(job_id).status, stocked.job(job_id).charged) == ("queued", 0)


def test_the_silence_of_a_worker_that_is_not_done_is_noticed(stocked: Bench) -> None:
    settings = stocked.platform.settings.model_copy(update={"lease_s": 1.0, "renew_s": 0.05})
    meeting, told = Meeting.open(HERE), threading.Event()
    words: list[str] = []

    def give_up(why: str) -> None:
        words.append(why)
        told.set()

    other, third = (Meeting.join(meeting.address, HERE) for _ in range(2))
    with Pulse(Seat(0, 3, meeting), settings, give_up):
        with Pulse(Seat(1, 3, other), settings, words.append):
            ends_at = time.monotonic() + 1
            wait_until(lambda: time.monotonic() > ends_at, 10, "it has beaten for a while")
        wait_until(lambda: time.monotonic() > ends_at + 2.5, 10, "two leases have passed since it was done")
        assert words == []
        third.store.set("alive/2", "1")
        assert told.wait(20)
    assert words == ["worker 2 has been silent for 2 s"]


def test_a_failure_is_heard_by_whoever_waits_for_all() -> None:
    meeting = Meeting.open(HERE)
    Meeting.join(meeting.address, HERE).say_failed(2, ErrorType.INVALID, "no such picture")
    with pytest.raises(MemberFailed, match="worker 2 of 3: no such picture"):
        meeting.wait_for_all(3, limit_s=30)
