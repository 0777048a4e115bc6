"""Adaptations fanned out over warm workers: `python -m benchmarks.fanout`.

One request adapts a model to many styles. What counts is how many styles a minute come out, and the share of the warm
workers' time that is not gradient steps: the time of bare steps, run in a process of their own before and after, is
what the same steps cost without a service around them. Sizes are those of a toy unless `--full` asks for the demo's.

Times come from the service's own rows: from the POST to the last model, and what its transaction took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.machine import busy, cpu_s
from benchmarks.stack import ADAPT_CONFIG, DATASETS, Service, running_stack
from stylefoundry.types import Job
from tests.images import write_photographs
from tests.waiting import wait_until

TOY: Mapping[str, Any] = {"width": 8, "content_size": 64, "style_size": 64, "batch_size": 1}
QUIET: Mapping[str, Any] = {"preview_every": 10_000, "preview_steps": [], "preview_images": 1, "onnx": False}
BASE = "fan-base"


WARM_UPS = 5  # fan-outs at most until all of it goes to warm workers


class Step(NamedTuple):
    """A bare gradient step, seconds."""

    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=int, default=20, help="one job each")
    parser.add_argument("--steps", type=int, default=20, help="of each adaptation")
    parser.add_argument("--workers", type=int, default=2, help="kept warm")
    parser.add_argument("--full", action="store_true", help="the demo's sizes")
    parser.add_argument("--limit", type=float, default=3600, metavar="S", help="longest time for all of it")
    parser.add_argument("--bare", type=json.loads, help=argparse.SUPPRESS)  # this program as its own child
    options = parser.parse_args()
    if options.bare is not None:
        print(json.dumps(bare_step_s(**options.bare)))
        return
    sizes = {} if options.full else TOY
    with running_stack({"WARM_WORKERS": str(options.workers), "CPUS": str(options.workers)}) as service:
        measure(service, options, {**ADAPT_CONFIG, **sizes, **QUIET, "steps": options.steps})


def measure(service: Service, options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    styles = service.photos.parent / "styles"
    write_photographs(styles, options.styles, width=160, height=128, first_seed=1000)
    service.client.push_dataset("styles", styles)
    train = {key: config[key] for key in ("width", "content_size", "style_size", "batch_size") if key in config}
    service.client.wait(service.train(BASE, train | {"steps": 1, "meta_batch": 1, "onnx": False}).id)
    adapt = {
        "method": "metastyle", "task": "adapt", "config": config, "base_model": BASE, "publish_as": "fan",
        "datasets": {**DATASETS, "style": "styles"},
    }  # fmt: skip
    service.stack.restart({"STYLEFOUNDRY_CPUS": "0"})  # with room in the ledger cold processes would help
    first = sorted(path.name for path in styles.iterdir())[: 4 * options.workers]
    for _ in range(WARM_UPS):  # in the first ones some workers are not warm yet
        pids = pids_of(service, fan_out(service, adapt, first, options.limit)[0])
        if len(pids) == options.workers and all(map(psutil.pid_exists, pids)):
            break
    else:
        raise RuntimeError(f"{len(pids)} processes did the work, not {options.workers} warm ones")
    before, cpu_before = bare(service, styles, config), cpu_s(list(pids))
    jobs, answered_s = fan_out(service, adapt, ["*"], options.limit)
    worked_s = cpu_s(list(pids)) - cpu_before
    after = bare(service, styles, config)
    if others := pids_of(service, jobs) - pids:
        raise RuntimeError(f"{len(others)} other processes than the warm workers did some of these jobs")
    report(jobs, options, answered_s, worked_s, Step(*map(statistics.mean, zip(before, after, strict=True))))


def fan_out(
    service: Service, adapt: Mapping[str, Any], styles: Sequence[str], limit_s: float
) -> tuple[list[Job], float]:
    """The jobs of a fan-out that has ended, and what its request took, seconds."""
    posted = time.perf_counter()
    made = service.client.fanouts.submit(adapt, styles)
    answered_s = time.perf_counter() - posted
    wait_until(lambda: service.client.fanouts.get(made.id).phase == "terminal", limit_s, "all adaptations have ended")
    jobs = service.client.jobs(fanout=made.id, limit=made.jobs)
    if wrong := [job for job in jobs if job.status != "succeeded"]:
        raise RuntimeError(f"{len(wrong)} of {len(jobs)} adaptations did not succeed: {wrong[0].error}")
    return jobs, answered_s


def pids_of(service: Service, jobs: Sequence[Job]) -> set[int]:
    """The processes that did these jobs."""
    attempts = [attempt for job in jobs for attempt in service.client.attempts(job.id)]
    return {attempt.pid for attempt in attempts if attempt.pid is not None}


def report(jobs: Sequence[Job], options: argparse.Namespace, answered_s: float, worked_s: float, step: Step) -> None:
    """Styles a minute, and where the time of the warm workers went."""
    ended = [job.finished_at for job in jobs if job.finished_at is not None]
    whole_s = (max(ended) - min(job.created_at for job in jobs)).total_seconds()
    steps = options.styles * options.steps
    print(
        f"{options.styles} styles of {options.steps} steps on {options.workers} warm workers: the request took "
        f"{answered_s:.2f} s ({options.styles / answered_s:,.0f} jobs/s); {60 * options.styles / whole_s:.1f} styles a "
        f"minute ({whole_s:.0f} s); not gradient steps: {1 - steps * step.cpu_s / worked_s:.0%} of the workers' "
        f"CPU time, {1 - steps * step.wall_s / (options.workers * whole_s):.0%} of their time by the clock (bare step: "
        f"{1000 * step.cpu_s:.1f} ms of CPU, {1000 * step.wall_s:.1f} by the clock); {busy()}"
    )


def bare(service: Service, styles: Path, config: Mapping[str, Any]) -> Step:
    """A bare step in a process of its own."""
    base = service.photos.parent / "base"
    if not base.exists():
        service.client.fetch_model(BASE, folder=base)
    style = min(styles.iterdir())
    given = {"base": str(base), "photos": str(service.photos), "style": str(style), "config": dict(config)}
    command = [sys.executable, "-m", "benchmarks.fanout", "--bare", json.dumps(given)]
    return Step(*json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def bare_step_s(base: str, photos: str, style: str, config: Mapping[str, Any]) -> Step:
    """The gradient steps alone, their batches made before; twice, the second time counts."""
    import torch

    from stylemodels.data import Batches
    from stylemodels.folder_run import FolderRun

    torch.set_num_threads(1)
    took = Step(0.0, 0.0)
    for _ in range(2):
        whole = FolderRun(
            "metastyle/adapt", dict(config), folders={"content": Path(photos)}, base=Path(base), style_image=Path(style)
        )
        with Batches(whole.run.streams(), whole.sources, seed=0) as batches:
            drawn = [batches.at(step) for step in range(config["steps"])]
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in drawn:
            whole.run.advance(batch)
        took = Step((time.perf_counter() - wall) / len(drawn), (time.process_time() - cpu) / len(drawn))
    return took


if __name__ == "__main__":
    main()
