"""From POST to the first training step, and what an adaptation costs besides: `python -m benchmarks.adapt`.

The budgets: a warm worker starts within 0.3 s, a cold one within 3 s plus loading the encoder; 200 warm steps take less
than 5 % longer than their bare gradient steps; API and dispatcher together stay below 400 MiB. A job is of the demo's
size: width 16, 128 px, encoder small-narrow.

Times come from the service's own rows. The bare steps run in a process of the worker's priority on batches that are
there already, alternating with the jobs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.machine import busy, cpu_s, rss_mib
from benchmarks.stack import ADAPT_CONFIG, Service, Times, running_stack, times_of

WARM_BUDGET_S, COLD_BUDGET_S, OVERHEAD_BUDGET, MEMORY_BUDGET_MIB = 0.3, 3.0, 0.05, 400
SHORT = {"steps": 2, "preview_every": 100, "checkpoint_every": 100}
STEPS = 200
STYLE = "photo-100.jpg"


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="of each start")
    parser.add_argument("--pairs", type=int, default=3, help="of a job and its bare steps")
    parser.add_argument("--bare", type=json.loads, help=argparse.SUPPRESS)  # this program as its own child
    options = parser.parse_args()
    if options.bare is not None:
        print(json.dumps(bare_steps(**options.bare)))
        return
    with running_stack() as service:
        cold = [start(service, task="train", name=f"cold-{n}") for n in range(options.repeats)]
        print_starts("cold", cold, f"budget {COLD_BUDGET_S} s + loading the encoder")
        warm = [start(service, task="adapt", name="cold-0") for n in range(options.repeats)]
        print_starts("warm", warm, f"budget {WARM_BUDGET_S} s")
        print_overhead(service, options.pairs)
        print_memory(service)


def start(service: Service, *, task: str, name: str) -> Times:
    """A job of two steps, alone. name: of the model that a training makes, or that an adaptation starts from."""
    train = task == "train"
    job = service.train(name, SHORT) if train else service.adapt(name, STYLE, SHORT | {"preview_steps": []})
    return times_of(service.client.wait(job.id), service.client.events(job.id))


def print_starts(kind: str, starts: Sequence[Times], budget: str) -> None:
    def span(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(
        f"{kind}, {len(starts)} jobs, seconds from POST: claimed {span([t.claimed for t in starts])}, the first step "
        f"begins {span([t.begun for t in starts])} ({budget}), its metrics are there "
        f"{span([t.stepped for t in starts])}; {busy()}",
        flush=True,
    )


def print_overhead(service: Service, pairs: int) -> None:
    """A warm adaptation of 200 steps against the same gradient steps alone."""
    base = service.client.fetch_model("cold-0", folder=service.photos.parent / "base")
    jobs, bare = [], []
    for _ in range(pairs):
        cost, pid = warm_job(service)
        jobs.append(cost)
        bare.append(in_child(base, service, niceness=psutil.Process(pid).nice()))
    both = list(zip(jobs, bare, strict=True))
    wall = statistics.median(job.wall_s / steps.wall_s for job, steps in both)
    cpu = statistics.median(job.cpu_s / steps.cpu_s for job, steps in both)
    print(
        f"warm adaptation of {STEPS} steps over its bare gradient steps, median of {pairs} pairs: "
        f"{wall - 1:+.1%} of the time from POST to published model, {cpu - 1:+.1%} of CPU time "
        f"(budget {OVERHEAD_BUDGET:.0%}); job {[round(c.wall_s, 1) for c in jobs]} s, bare "
        f"{[round(c.wall_s, 1) for c in bare]} s; {busy()}",
        flush=True,
    )


def print_memory(service: Service) -> None:
    """What the control plane takes after these jobs."""
    pids = service.stack.pids()
    api, dispatcher = rss_mib(pids["api"]), rss_mib(pids["dispatcher"])
    print(f"memory: API {api:.0f} MiB, dispatcher {dispatcher:.0f} MiB, together budget {MEMORY_BUDGET_MIB} MiB")


def warm_job(service: Service) -> tuple[Cost, int]:
    """One job; the CPU time is the warm worker's, with all its threads."""
    pid = warm_pid(service)
    before = cpu_s([pid])
    job = service.client.wait(service.adapt("cold-0", STYLE, {"steps": STEPS}).id)
    took = Cost(times_of(job, service.client.events(job.id)).finished, cpu_s([pid]) - before)
    if service.client.attempts(job.id)[-1].pid != pid:
        raise RuntimeError("another process than the warm worker did this job")
    return took, pid


def warm_pid(service: Service) -> int:
    """The process of the last job, which was a warm one."""
    newest = service.client.jobs(limit=1)[0]
    pid = service.client.attempts(newest.id)[-1].pid
    assert pid is not None
    return pid


def in_child(base: Path, service: Service, *, niceness: int) -> Cost:
    """The bare steps in a process of their own, as the worker is one."""
    given = {"base": str(base), "photos": str(service.photos), "style": str(service.paintings / STYLE)}
    command = ["nice", "-n", str(niceness), sys.executable, "-m", "benchmarks.adapt", "--bare", json.dumps(given)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return Cost(*json.loads(ran.stdout))


def bare_steps(base: str, photos: str, style: str) -> Cost:
    """The gradient steps alone, their batches made before."""
    import torch

    from stylemodels.data import Batches
    from stylemodels.folder_run import FolderRun

    torch.set_num_threads(1)
    settings = dict(ADAPT_CONFIG) | {"steps": STEPS}
    folders = {"content": Path(photos)}
    whole = FolderRun("metastyle/adapt", settings, folders=folders, base=Path(base), style_image=Path(style))
    with Batches(whole.run.streams(), whole.sources, seed=0) as batches:
        drawn = [batches.at(step) for step in range(STEPS)]
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in drawn:
        whole.run.advance(batch)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
