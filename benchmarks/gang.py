"""Two workers against one, and how soon a gang steps: `python -m benchmarks.gang`.

Scaling: the same training as jobs of one and of two workers, of one thread each, in turn. The pace is the slope through
the points at which steps were seen as finished. Efficiency is one worker's seconds a step over twice those of two: on a
machine of two cores whatever else runs on it takes from the two workers. By CPU time, it is one worker's over that of
both: what the exchange and the smaller parts cost.

Start: seconds from the POST of a job of two fresh workers to its first step in SQL, by the database's clock; the budget
is 8 s.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.machine import busy, cpu_s
from benchmarks.stack import Service, running_stack, times_of

START_BUDGET_S = 8.0
SETTINGS: dict[str, Any] = {"steps": 24, "checkpoint_every": 24, "preview_every": 24, "meta_batch": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="of a job of one worker and one of two")
    parser.add_argument("--starts", type=int, default=3, help="of a cold gang")
    options = parser.parse_args()
    with running_stack() as service:
        assert service.client.wait(service.train("warm-up", SETTINGS | {"steps": 2}).id).status == "succeeded"
        print_starts(service, options.starts)
        print_scaling(service, options.pairs)


def print_starts(service: Service, count: int) -> None:
    taken = []
    for n in range(count):
        job = service.client.wait(trained(service, f"start-{n}", workers=2, steps=2))
        times = times_of(job, service.client.events(job.id))
        taken.append(times.stepped)
        print(
            f"cold gang of two: claimed after {times.claimed:.2f} s, begun {times.begun:.2f} s, first step "
            f"{times.stepped:.2f} s (budget {START_BUDGET_S:.0f} s); {busy()}",
            flush=True,
        )
    print(f"cold gang of two: POST to first step {statistics.median(taken):.2f} s, median of {count}")


class Pace(NamedTuple):
    """Seconds a step: by the clock, and of all workers' CPU time."""

    wall_s: float
    cpu_s: float


def print_scaling(service: Service, pairs: int) -> None:
    by_clock, by_cpu = [], []
    for n in range(pairs):
        alone, shared = (pace(service, f"pair-{n}-{workers}", workers) for workers in (1, 2))
        by_clock.append(alone.wall_s / (2 * shared.wall_s))
        by_cpu.append(alone.cpu_s / shared.cpu_s)
        print(
            f"pair {n + 1}: one worker {alone.wall_s:.3f} s a step, CPU {alone.cpu_s:.3f}; two {shared.wall_s:.3f} s, "
            f"CPU {shared.cpu_s:.3f} together; {busy()}",
            flush=True,
        )
    print(
        f"scaling efficiency from one worker to two: {statistics.median(by_clock):.0%} by the clock, "
        f"{statistics.median(by_cpu):.0%} by CPU time; median of {pairs} pairs of {SETTINGS['steps']} steps; {busy()}"
    )


def trained(service: Service, name: str, *, workers: int, steps: int) -> str:
    resources = {"workers": workers, "cpus_per_worker": 1}
    return service.train(name, SETTINGS | {"steps": steps}, seed=7, resources=resources).id


def pace(service: Service, name: str, workers: int) -> Pace:
    job_id = trained(service, name, workers=workers, steps=SETTINGS["steps"])
    points: list[tuple[int, float, float]] = []
    pids: list[int] = []
    for event in service.client.follow(job_id):
        if event.event == "metric" and (pids := pids or worker_pids(service, job_id)):
            step = max(step for values in event.body["points"].values() for step, _ in values)
            points.append((step, event.at.timestamp(), cpu_s([pid for pid in pids if psutil.pid_exists(pid)])))
    job = service.client.job(job_id)
    assert (job.status, len(pids)) == ("succeeded", workers), job
    # The last point stands for the end, where a worker may be gone already; the first for the start.
    steps, seconds, spent = np.array(points[1:-1], dtype=np.float64).T
    return Pace(float(np.polyfit(steps, seconds, 1)[0]), float(np.polyfit(steps, spent, 1)[0]))


def worker_pids(service: Service, job_id: str) -> list[int]:
    """Rank 0, which the rows know, and the others, over whose command line Ray writes what they do."""
    first = service.client.attempts(job_id)[-1].pid
    found = [psutil.Process(pid) for pid in service.stack.processes()]
    others = [process.pid for process in found if " ".join(process.cmdline()).startswith("ray::Worker.follow")]
    return [] if first is None else [first, *others]


if __name__ == "__main__":
    main()
