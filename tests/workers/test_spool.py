"""What a training says gets out in order, whatever is away meanwhile, and never holds the training up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from sqlalchemy import select

from orchestrator.objects import checkpoint_prefix, sample_key
from orchestrator.settings import Settings
from orchestrator.states import ErrorType, Move
from orchestrator.store import queue
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Sample
from stylemodels.checkpoint import State
from tests.servers import PostgresServer, S3Server, ValkeyServer
from tests.waiting import wait_until
from tests.workers.bench import TENANT, TRAIN, Bench
from workers import checkpoints
from workers.checkpoints import Candidate
from workers.endings import StopAsked, StorageAway, Superseded, TimeIsUp
from workers.patience import Patience
from workers.platform import Platform
from workers.spool import STALLED_EXIT, Spool


def state_of(step: int) -> State:
    weights = {"weight": torch.full((4,), float(step))}
    return State(step=step, weights=weights, optimizer={}, random={"torch": torch.get_rng_state()}, facts={"seed": 0})


def started(bench: Bench, **changes: Any) -> Ticket:
    """A job that a worker has begun."""
    bench.submit("metastyle/train", config=TRAIN, datasets={}, **changes)
    ticket = bench.claim()
    with bench.db.write() as tx:
        assert queue.begin(tx, ticket, actor="run", node="node", pid=1, resumed_from=0, total_steps=100, lease_s=15.0)
    return ticket


@contextmanager
def spooling(bench: Bench, ticket: Ticket, **settings: Any) -> Iterator[Spool]:
    changed = bench.platform.settings.model_copy(update={"renew_s": 0.05, **settings})
    platform = replace(bench.platform, settings=changed)
    with Spool(ticket, bench.job(ticket.job_id), platform, Patience(changed.outage_s)) as spool:
        yield spool


def train(spool: Spool, steps: range) -> None:
    for step in steps:
        spool.step_done(step, {"loss": float(step), "other": -float(step)}, images=2)


def test_a_checkpoint_is_told_after_every_metric_up_to_its_step(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        for end in (10, 20, 30):
            train(spool, range(end - 9, end + 1))
            spool.checkpoint(state_of(end))
        spool.drain()

    seen: set[int] = set()
    for event in bench.events(ticket.job_id, "metric", "checkpoint"):
        if event.event == "metric":
            seen |= {step for step, _ in event.body["points"]["loss"]}
        else:
            assert seen >= set(range(1, event.body["step"] + 1))
    assert seen == set(range(1, 31))
    assert bench.metric(ticket.job_id, "other") == {step: -float(step) for step in range(1, 31)}
    assert bench.job(ticket.job_id).step == 30


def test_a_recorded_checkpoint_reads_back_as_it_was(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        spool.step_done(1, {"loss": 1.0}, images=1)
        spool.checkpoint(state_of(1))
        spool.drain()

    [row] = bench.checkpoints(ticket.job_id)
    assert row.prefix == checkpoint_prefix(TENANT, ticket.job_id, ticket.attempt, 1)
    assert {file["path"] for file in row.files} >= {"weights.safetensors", "state.json", "manifest.json"}
    assert row.bytes == sum(bench.objects.size(f"{row.prefix}/{file['path']}") for file in row.files)
    candidate = Candidate(ticket.job_id, row.attempt, row.step, row.prefix, row.manifest_sha256)
    state = checkpoints.download(bench.objects, Patience(5), candidate)
    assert state.step == 1
    assert state.weights["weight"].equal(state_of(1).weights["weight"])


def test_sample_pictures_are_told_with_their_sizes_and_keys(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        spool.pictures(0, [("result-1", torch.rand(3, 20, 30))])
        spool.drain()

    with bench.db.read() as tx:
        sample = tx.scalars(select(Sample)).one()
    assert (sample.step, sample.name, sample.width, sample.height) == (0, "result-1", 30, 20)
    assert sample.key == sample_key(TENANT, ticket.job_id, 1, 0, "result-1")
    assert bench.objects.get(sample.key).startswith(b"\xff\xd8\xff"), "a JPEG"


def test_the_lease_is_renewed_when_there_is_nothing_to_tell(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket):
        first = bench.job(ticket.job_id).lease_until
        wait_until(lambda: (bench.job(ticket.job_id).lease_until or 0) > (first or 0), 20, "the lease has moved")


def test_only_the_newest_checkpoints_are_kept(bench: Bench, s3_server: S3Server) -> None:
    ticket = started(bench, keep_checkpoints=2)
    with spooling(bench, ticket) as spool:
        for step in range(1, 6):
            train(spool, range(step, step + 1))
            spool.checkpoint(state_of(step))
            spool.drain()

    kept = [checkpoint.prefix for checkpoint in bench.checkpoints(ticket.job_id)]
    assert [checkpoint.step for checkpoint in bench.checkpoints(ticket.job_id)] == [4, 5]
    there = {key.rpartition("/")[0] for key in bench.objects.keys(f"jobs/{TENANT}/{ticket.job_id}/")}
    assert there == set(kept)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_database_going_away_costs_neither_time_nor_points(
    sqlite_bench: Bench, postgresql_url: str, postgres_server: PostgresServer, how: str
) -> None:
    bench = Bench(Platform.open(sqlite_bench.platform.settings.model_copy(update={"database_url": postgresql_url})))
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        train(spool, range(1, 11))
        wait_until(lambda: bench.job(ticket.job_id).step == 10, 20, "the first points are there")
        postgres_server.kill() if how == "killed" else postgres_server.freeze()

        train(spool, range(11, 5001))
        spool.checkpoint(state_of(5000))
        prefix = checkpoint_prefix(TENANT, ticket.job_id, 1, 5000)
        wait_until(
            lambda: f"{prefix}/manifest.json" in list(bench.objects.keys(prefix)), 20, "the objects go up meanwhile"
        )
        spool.raise_if_over()

        postgres_server.thaw()
        postgres_server.start()
        spool.drain()

    assert bench.metric(ticket.job_id, "loss") == {step: float(step) for step in range(1, 5001)}
    assert [checkpoint.step for checkpoint in bench.checkpoints(ticket.job_id)] == [5000]
    told = [step for event in bench.events(ticket.job_id, "metric") for step, _ in event.body["points"]["loss"]]
    assert sorted(set(told)) == list(range(1, 5001))
    assert told == sorted(told)
    bench.platform.close()


def test_the_object_store_going_away_holds_up_no_metrics_and_costs_no_pictures(
    bench: Bench, s3_server: S3Server
) -> None:
    ticket = started(bench)
    s3_server.kill()
    with spooling(bench, ticket) as spool:
        for step in range(1, 9):
            train(spool, range(step, step + 1))
            spool.checkpoint(state_of(step))
            spool.pictures(step, [("result", torch.rand(3, 16, 16))])
        wait_until(lambda: bench.job(ticket.job_id).step == 8, 20, "metrics arrive meanwhile")
        assert bench.checkpoints(ticket.job_id) == []

        s3_server.start()
        spool.drain()

    steps = [checkpoint.step for checkpoint in bench.checkpoints(ticket.job_id)]
    assert steps[-1] == 8, "the newest"
    assert len(steps) <= 2, "and the one that was in hand"
    with bench.db.read() as tx:
        assert set(tx.scalars(select(Sample.step))) == set(range(1, 9))


def test_redis_going_away_is_not_noticed(bench: Bench, valkey_server: ValkeyServer) -> None:
    ticket = started(bench)
    valkey_server.kill()
    with spooling(bench, ticket) as spool:
        train(spool, range(1, 101))
        spool.drain()
    assert len(bench.metric(ticket.job_id, "loss")) == 100


def test_a_store_that_stays_away_ends_the_attempt(bench: Bench, s3_server: S3Server) -> None:
    ticket = started(bench)
    s3_server.kill()
    with spooling(bench, ticket, outage_s=0.3) as spool:
        spool.checkpoint(state_of(1))
        with pytest.raises(StorageAway, match=r"no answer for 0\.3 s"):
            spool.drain()
        assert spool.broken


def test_a_superseded_worker_is_told_and_writes_nothing(bench: Bench) -> None:
    ticket = started(bench)
    bench.lose(ticket)
    second = bench.claim()
    with spooling(bench, ticket) as spool:
        train(spool, range(1, 11))
        spool.checkpoint(state_of(10))
        with pytest.raises(Superseded):
            spool.drain()
        with pytest.raises(Superseded):
            spool.raise_if_over()

    assert second.attempt == 2
    assert bench.metric(ticket.job_id, "loss") == {}
    assert bench.checkpoints(ticket.job_id) == []
    assert bench.job(ticket.job_id).step == 0


@pytest.mark.parametrize("wish", [Move.PAUSE, Move.CANCEL])
def test_a_wish_to_stop_reaches_the_training(bench: Bench, wish: Move) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        spool.raise_if_over()
        bench.move(ticket.job_id, wish)

        def over() -> bool:
            try:
                spool.raise_if_over()
            except StopAsked as asked:
                return asked.status == bench.job(ticket.job_id).status
            return False

        wait_until(over, 20, "the wish has arrived")


def test_a_pause_does_not_keep_the_last_checkpoint_from_getting_out(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        bench.move(ticket.job_id, Move.PAUSE)
        train(spool, range(1, 4))
        spool.checkpoint(state_of(3))
        assert spool.drain()
    assert [checkpoint.step for checkpoint in bench.checkpoints(ticket.job_id)] == [3]


def test_running_time_counts_over_all_attempts(bench: Bench) -> None:
    ticket = started(bench, timeout_s=100.0)
    job = bench.job(ticket.job_id)
    job.running_s = 99.99
    with Spool(ticket, job, bench.platform, Patience(5)) as spool:

        def over() -> bool:
            try:
                spool.raise_if_over()
            except TimeIsUp:
                return True
            return False

        wait_until(over, 20, "the time is up")


def test_log_lines_are_events_and_one_file(bench: Bench) -> None:
    ticket = started(bench)
    with spooling(bench, ticket) as spool:
        spool.log("first")
        spool.log("second", "warning")
        spool.drain()
        kept = spool.log_bytes().decode().splitlines()
    assert bench.log_text(ticket.job_id) == "first\nsecond"
    assert len(kept) == 2
    assert '"level": "warning"' in kept[1]


STALL = """
import sys, threading
from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Job
from workers.patience import Patience
from workers.platform import Platform
from workers.spool import Spool

platform = Platform.open(Settings.model_validate_json(sys.argv[1]))
ticket = Ticket(sys.argv[2], 1)
with platform.db.read() as tx:
    job = tx.get_one(Job, ticket.job_id)
with Spool(ticket, job, platform, Patience(60)) as spool, spool.watched():
    spool.step_done(1, {"loss": 1.0}, images=1)
    threading.Event().wait()
"""


def test_a_training_that_makes_no_step_for_long_is_ended_with_its_process(bench: Bench, settings: Settings) -> None:
    ticket = started(bench)
    secrets = {name: getattr(settings, name).get_secret_value() for name in ("redis_url", "s3_secret_key", "admin_key")}
    quick = settings.model_dump(mode="json") | secrets | {"renew_s": 0.05, "stall_s": 0.2}

    ended = subprocess.run([sys.executable, "-c", STALL, json.dumps(quick), ticket.job_id], timeout=60, check=False)

    assert ended.returncode == STALLED_EXIT
    [attempt] = bench.attempts(ticket.job_id)
    assert attempt.error is not None
    assert attempt.error["type"] == ErrorType.STALLED
    assert "no step was finished for" in attempt.error["message"]
