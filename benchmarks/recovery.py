"""Seconds from each `kill -9` until the service works again: `python -m benchmarks.recovery`.

The budgets: API, dispatcher, Redis and S3 answer again within 5 s and cost no attempt. A killed worker's job makes its
next step within 10 s, after Ray's death or everybody's within 40 s of the restart, after a freeze within 45 s.

Everything dies in the middle of a training job, whose steps are short, so that the figures are not of training. The
dispatcher has answered when a job that was queued after its death is claimed; the others when they can be asked again.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.machine import busy
from benchmarks.stack import Service, running_stack
from stylefoundry.types import Job
from tests.waiting import wait_until

LONG: dict[str, Any] = {
    "steps": 1_000_000, "content_size": 32, "style_size": 32, "width": 4, "res_blocks": 1, "batch_size": 1,
    "checkpoint_every": 100, "preview_every": 1_000_000,
}  # fmt: skip
MIDDLE = 120  # beyond a checkpoint
BUDGETS_S = {
    "redis": 5, "s3": 5, "api": 5, "dispatcher": 5, "worker": 10, "ray": 40, "everything": 40, "frozen worker": 45,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each death")
    parser.add_argument(
        "--only", choices=list(BUDGETS_S), nargs="+", default=list(BUDGETS_S), help="some of the deaths"
    )
    options = parser.parse_args()
    with running_stack() as service:
        for victim in options.only:
            taken, attempts = zip(*(seconds_without(service, victim) for _ in range(options.repeats)), strict=True)
            print(
                f"{victim}: {'next step' if victim in WORKERS else 'answers'} after {statistics.median(taken):.1f} s "
                f"({', '.join(f'{s:.1f}' for s in taken)}; budget {BUDGETS_S[victim]}), attempts lost "
                f"{', '.join(str(n - 1) for n in attempts)}; {busy()}",
                flush=True,
            )


def seconds_without(service: Service, victim: str) -> tuple[float, int]:
    """One death. Returns the seconds, and the attempt that the job is at afterwards."""
    job = service.train(f"without-{victim.replace(' ', '-')}", LONG)
    wait_for_step(service, job, MIDDLE)
    seconds = WORKERS[victim](service, job) if victim in WORKERS else answers_again(service, victim)
    wait_for_step(service, job, service.client.job(job.id).progress.step + 1)
    attempt = service.client.job(job.id).attempt
    service.client.cancel(job.id)
    wait_until(lambda: service.client.job(job.id).phase == "terminal", 60, "the job is cancelled")
    return seconds, attempt


def wait_for_step(service: Service, job: Job, step: int) -> None:
    wait_until(lambda: service.client.job(job.id).progress.step >= step, 120, f"step {step} of {job.name}", every_s=0.1)


# --- parts of the control plane ---


def answers_again(service: Service, part: str) -> float:
    """Seconds from the kill until the part's next process answers."""
    pid = service.stack.pids()[part]
    began = time.time()
    os.kill(pid, signal.SIGKILL)
    if part == "dispatcher":
        return claims_again(service, began)
    wait_until(lambda: is_new_and_healthy(service, part, pid), 60, f"{part} answers")
    return time.time() - began


def is_new_and_healthy(service: Service, part: str, old: int) -> bool:
    now = service.stack.status()["parts"][part]
    return now["pid"] not in (None, old) and bool(now["healthy"])


def claims_again(service: Service, began: float) -> float:
    job = service.train("claimed", LONG | {"steps": 1})
    claimed = next(e.at for e in service.client.follow(job.id) if e.body.get("status") == "starting")
    service.client.wait(job.id)
    return claimed.timestamp() - began


# --- what an attempt dies with ---


def next_step_after(service: Service, job: Job, kill: Callable[[], float]) -> float:
    """Seconds from the moment that `kill` returns to the first metrics of the next attempt."""
    last = service.client.events(job.id)[-1]
    attempt = service.client.job(job.id).attempt
    began = kill()
    events = service.client.follow(job.id, after=last.id)
    return next(e.at.timestamp() for e in events if e.event == "metric" and e.attempt > attempt) - began


def without_worker(service: Service, job: Job) -> float:
    pid = worker_pid(service, job)
    return next_step_after(service, job, lambda: send(pid, signal.SIGKILL))


def with_frozen_worker(service: Service, job: Job) -> float:
    pid = worker_pid(service, job)
    return next_step_after(service, job, lambda: send(pid, signal.SIGSTOP))


def without_ray(service: Service, job: Job) -> float:
    pid = service.stack.pids()["ray"]
    return next_step_after(service, job, lambda: send(pid, signal.SIGKILL))


def without_anything(service: Service, job: Job) -> float:
    def kill() -> float:
        service.stack.kill()
        restarted = time.time()
        service.stack.start()
        return restarted

    return next_step_after(service, job, kill)


WORKERS: dict[str, Callable[[Service, Job], float]] = {
    "worker": without_worker,
    "ray": without_ray,
    "everything": without_anything,
    "frozen worker": with_frozen_worker,
}


def send(pid: int, number: signal.Signals) -> float:
    os.kill(pid, number)
    return time.time()


def worker_pid(service: Service, job: Job) -> int:
    pid = service.client.attempts(job.id)[-1].pid
    assert pid is not None
    return pid


if __name__ == "__main__":
    main()
