"""The same training through the service and bare: `python -m benchmarks.tax`.

The budget: a job through the service trains at 97 % or more of the images a second of `python -m stylemodels train`,
where the service has a core of its own. So trainings run on one core, and everything else of the stack on the other.

Both are watched in the same way: which step was reached when, in wall and in CPU seconds of the training process. The
pace is the slope through these points, checkpoints and previews included. Jobs and bare runs alternate.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.machine import OTHER_CORE, SERVICE_CORE, busy, cpu_s
from benchmarks.stack import TRAIN_CONFIG, Service, running_stack

BUDGET = 0.97
SETTINGS = {"steps": 60, "checkpoint_every": 20, "preview_every": 20}
SEED = 7
TRAINING_CORE = OTHER_CORE
PROGRESS = re.compile(rb"\r(\d+)/\d+ ")


class Point(NamedTuple):
    """A step that was seen as finished."""

    step: int
    wall_s: float
    cpu_s: float


class Pace(NamedTuple):
    """Seconds a step."""

    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="of a job and a bare run")
    options = parser.parse_args()
    with running_stack() as service:
        warm_up = service.client.wait(service.train("warm-up", SETTINGS | {"steps": 2}, seed=SEED).id)
        assert warm_up.status == "succeeded"
        pairs = []
        for n in range(options.pairs):
            job, niceness = through_service(service, f"job-{n}")
            pairs.append((job, bare(service, service.photos.parent / f"bare-{n}", niceness)))
            print(
                f"pair {n + 1}: job {job.wall_s:.3f} s a step, bare {pairs[-1][1].wall_s:.3f} s; {busy()}", flush=True
            )
    wall = statistics.median(bare.wall_s / job.wall_s for job, bare in pairs)
    cpu = statistics.median(bare.cpu_s / job.cpu_s for job, bare in pairs)
    print(
        f"a job trains at {wall:.1%} of the bare loop's images a second by the clock, {cpu:.1%} by the training "
        f"process's CPU time (budget {BUDGET:.0%}); median of {len(pairs)} pairs of {SETTINGS['steps']} steps; {busy()}"
    )


def through_service(service: Service, name: str) -> tuple[Pace, int]:
    """One job; its pace, and the priority of the worker's process."""
    job = service.train(name, SETTINGS, seed=SEED)
    points: list[Point] = []
    niceness = pid = 0
    for event in service.client.follow(job.id):
        if event.event == "status" and event.body["status"] == "running":
            pid = service.client.attempts(job.id)[-1].pid or 0
            niceness = psutil.Process(pid).nice()
            part_the_cores(service, pid)
        if event.event == "metric" and psutil.pid_exists(pid):
            step = max(step for values in event.body["points"].values() for step, _ in values)
            points.append(Point(step, event.at.timestamp(), cpu_s([pid])))
    return pace(points), niceness


def part_the_cores(service: Service, worker: int) -> None:
    """The worker on one core, all other processes of the stack on the other one."""
    for pid in service.stack.processes():
        core = TRAINING_CORE if pid == worker else SERVICE_CORE
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {core})


def bare(service: Service, out: Path, niceness: int) -> Pace:
    """`python -m stylemodels train` on the same pictures, settings and seed, with the worker's priority."""
    settings = [f"{name}={value}" for name, value in (dict(TRAIN_CONFIG) | SETTINGS).items()]
    folders = ["--content", str(service.photos), "--style", str(service.paintings), "--out", str(out)]
    command = ["nice", "-n", str(niceness), "taskset", "-c", str(TRAINING_CORE), sys.executable, "-m", "stylemodels"]
    command += ["train", "metastyle", *folders, "--seed", str(SEED), "--set", *settings]
    points: list[Point] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stderr is not None
        while text := process.stderr.read(65536):
            if steps := PROGRESS.findall(text):
                points.append(Point(int(steps[-1]), time.time(), cpu_s([process.pid])))
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return pace(points)


def pace(points: list[Point]) -> Pace:
    """The slope through the points, by least squares, and never through the first: it stands for the start."""
    steps, walls, cpus = (np.array(values, dtype=np.float64) for values in zip(*points[1:], strict=True))
    return Pace(float(np.polyfit(steps, walls, 1)[0]), float(np.polyfit(steps, cpus, 1)[0]))


if __name__ == "__main__":
    main()
