"""The same training through the service and bare: `python -m benchmarks.tax`.

The budget: a job through the service trains at 97 % or more of the images a second of `python -m stylemodels train`,
where the service has a core of its own. So trainings run on one core, and everything else of the stack on the other.

Both are watched in the same way: which step was reached when. The pace is the slope through these points, checkpoints
and previews included. Jobs and bare runs alternate. Linux tells how long the training thread stood in line for a core,
so that on a shared machine the others' share can be left out.
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

from benchmarks.machine import OTHER_CORE, SERVICE_CORE, busy, cpu_s, waited_s
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
    own_s: float  # the same without the time that the training thread stood in line for a core
    cpu_s: float  # of the whole process


def point(step: int, at: float, pid: int) -> Point:
    return Point(step, at, at - waited_s(pid), cpu_s([pid]))


class Pace(NamedTuple):
    """Seconds a step."""

    wall_s: float
    own_s: float
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
            alone = bare(service, service.photos.parent / f"bare-{n}", niceness)
            pairs.append((job, alone))
            print(f"pair {n + 1}: job {described(job)}; bare {described(alone)}; {busy()}", flush=True)
    clock, own, cpu = (statistics.median(alone[i] / job[i] for job, alone in pairs) for i in range(3))
    print(
        f"a job trains at {own:.1%} of the bare loop's images a second (budget {BUDGET:.0%}), where waiting for a core "
        f"that others had is left out; {clock:.1%} by the clock, {cpu:.1%} by the training process's CPU time; median "
        f"of {len(pairs)} pairs of {SETTINGS['steps']} steps; {busy()}"
    )


def described(pace: Pace) -> str:
    return f"{pace.wall_s:.3f} s a step, {pace.own_s:.3f} without waiting, CPU {pace.cpu_s:.3f}"


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
            points.append(point(step, event.at.timestamp(), pid))
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
                points.append(point(int(steps[-1]), time.time(), process.pid))
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return pace(points)


def pace(points: list[Point]) -> Pace:
    """The slopes through the points, by least squares; the first is left out, it stands for the start."""
    steps, *seconds = np.array(points[1:], dtype=np.float64).T
    return Pace(*(float(np.polyfit(steps, spent, 1)[0]) for spent in seconds))


if __name__ == "__main__":
    main()
