"""An attempt in a thread of its own, so that a test can meddle with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from orchestrator.store.queue import Ticket
from tests.waiting import wait_until
from tests.workers.bench import Bench


@contextmanager
def at_work(bench: Bench, ticket: Ticket) -> Iterator[Future[str]]:
    """The outcome to be of an attempt that runs meanwhile; leaving waits for it."""
    with ThreadPoolExecutor(1, thread_name_prefix="attempt") as thread:
        yield thread.submit(bench.run, ticket)


def wait_for_step(bench: Bench, job_id: str, step: int) -> None:
    wait_until(lambda: bench.job(job_id).step >= step, 30, f"{job_id} is at step {step}")
