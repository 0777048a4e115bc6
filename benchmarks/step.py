"""Training steps and drawings of every method: `python -m benchmarks.step [METHOD[/TASK] …]`.

Each figure comes from a process of its own on one core: images a second of a training step in three forms (as the
published code has it: float32, channels first, PyTorch's own instance norm; ours; and ours in bf16), megapixels
a second of drawing at 256², 512² and 1,024², the most memory beyond the libraries' own, FLOPs, and how much of the
core's matrix product rate is reached. A checkpoint holds a training up for as long as its snapshot takes: its share of
the time is told for the default `checkpoint_every`. With `--small` pictures have 64²: whether it works, not how fast.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import instance_norm
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import busy
from benchmarks.tasks import built, drawing, finished, from_child, pictures_of, task_class_of, tasks_named, timed
from stylemodels import train as loop
from stylemodels.blocks import InstanceNorm
from stylemodels.export import parameter_counts
from stylemodels.features import at_least_float32
from stylemodels.memory import peak
from stylemodels.method import Task
from stylemodels.train import Run

SIZES = (256, 512, 1024)
SMALL_PX = 64
FORMS = ("as published", "ours", "bf16")
BATCH = 2  # pictures of each stream; what a step costs is proportional
STEPS = 3  # of each phase; the first of them is not counted
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # one level of those that train five alike
    "collaborative-distillation/distill": {"stages": (5,)},
    "collaborative-distillation/train-decoder": {"stages": (5,)},
    "wct/train": {"levels": (5,)},
    "metastyle/train": {"meta_batch": 1},
    # steps that take minutes with two; both sides of the gates move in each, and so each costs the same
    "ctb/train": {"batch_size": 1, "dsr": -1.0},
    "tpfr/train": {"batch_size": 1},
}
DRAWN: Mapping[str, Mapping[str, Any]] = {"gatys/optimise": {"steps": 1}}


class Asked(NamedTuple):
    """What one process measures."""

    task: str
    form: str
    size: int  # of the pictures; 0: as published
    draws: bool  # instead of training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="METHOD[/TASK]", help="all of them without one")
    parser.add_argument("--small", action="store_true", help=f"pictures of {SMALL_PX}²: to try it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(measured(Asked(*json.loads(options.child)))))
        return
    peaks = {dtype: matrix_product_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f} GFLOP/s".removeprefix("torch.") for dtype, rate in peaks.items())
    print(f"matrix product of 2,048², one core: {rates}; {busy()}\n")
    for name in tasks_named(options.tasks):
        if task_class_of(name).trains:
            training(name, SMALL_PX if options.small else 0, peaks)
        draws(name, (SMALL_PX,) if options.small else SIZES, peaks[torch.float32])


def training(name: str, size: int, peaks: Mapping[torch.dtype, float]) -> None:
    by_form = {form: from_child("benchmarks.step", Asked(name, form, size, draws=False)) for form in FORMS}
    for phase, first in by_form[FORMS[0]]["phases"].items():
        figures = []
        for form in FORMS:
            found = by_form[form]["phases"][phase]
            share = found["flops"] / found["seconds"] / peaks[torch.bfloat16 if form == "bf16" else torch.float32]
            faster = first["seconds"] / found["seconds"]
            rate = found["images"] / found["seconds"]
            figures.append(f"{form} {rate:.2f} images/s ({faster:.2f}x, {share:.0%} of the product's rate)")
        flops = first["flops"] / first["images"] / 1e9
        memory = mib(by_form["ours"])
        print(f"{name} {phase}: {'; '.join(figures)}; {flops:.0f} GFLOP an image, peak {memory}", flush=True)
    paused = [paused_share(by_form[form]) for form in FORMS[1:]]
    print(f"{name}: checkpoints take {paused[0]:.3%} of the time, {paused[1]:.3%} in bf16", flush=True)


def paused_share(found: Mapping[str, Any]) -> float:
    """Of the time of the phase with the fastest steps."""
    steps_s = found["checkpoint_every"] * min(phase["seconds"] for phase in found["phases"].values())
    return float(found["snapshot_s"] / (steps_s + found["snapshot_s"]))


def draws(name: str, sizes: Sequence[int], peak_rate: float) -> None:
    figures = []
    for size in sizes:
        found = from_child("benchmarks.step", Asked(name, "ours", size, draws=True))
        if not found["drew"]:
            print(f"{name} draws no pictures", flush=True)
            return
        rate, share = size * size / 1e6 / found["seconds"], found["flops"] / found["seconds"] / peak_rate
        flops = found["flops"] / 1e9
        figures.append(f"{size}² {rate:.3f} Mpx/s, {flops:.0f} GFLOP ({share:.0%}), {mib(found)}")
    parts = ", ".join(f"{part} {count:,}" for part, count in found["parameters"].items())
    print(f"{name} draws: {'; '.join(figures)}; parameters: {parts or 'none'}; {busy()}", flush=True)


def mib(found: Mapping[str, Any]) -> str:
    return "unknown" if found["peak_mib"] is None else f"{found['peak_mib']:.0f} MiB"


def measured(asked: Asked) -> dict[str, Any]:
    """In a process of its own, so that the peak is its own too."""
    with peak(torch.device("cpu")) as memory:
        found = drawing_figures(asked) if asked.draws else step_figures(asked)
    return found | {"peak_mib": memory.mib}


def step_figures(asked: Asked) -> dict[str, Any]:
    settings: dict[str, Any] = {"batch_size": BATCH, "precision": "bf16" if asked.form == "bf16" else "fp32"}
    if asked.size:
        settings |= {"content_size": asked.size, "style_size": asked.size}
    settings |= shortened(task_class_of(asked.task)) | dict(SETTINGS.get(asked.task, {}))
    task = built(asked.task, settings)
    if asked.form == "as published":
        loop.channels_last = as_it_is  # this process does nothing else
        InstanceNorm.forward = published_norm  # type: ignore[method-assign, assignment]
    run = Run(task, seed=0)
    if asked.form == "as published":
        task.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    phases = phase_figures(run)
    return {"phases": phases, "snapshot_s": timed(run.snapshot), "checkpoint_every": task.config.checkpoint_every}


def phase_figures(run: Run) -> dict[str, dict[str, float]]:
    """Of a run from its start to its end: seconds of the fastest step of each phase but its first."""
    phases: dict[str, dict[str, float]] = {}
    while run.step < run.total_steps:
        phase, first = run.task.phase, run.task.step == 0
        batch = pictures_of(run.task)
        step = partial(run.advance, batch)
        if first:
            images = float(sum(stream.count for stream in run.streams().values()))
            phases[phase] = {"flops": counted(step), "images": images}
        else:
            seconds = timed(step)
            phases[phase]["seconds"] = min(seconds, phases[phase].get("seconds", seconds))
    return phases


def shortened(task_class: type[Task]) -> dict[str, int]:
    """Settings that make every phase `STEPS` long, also those that the defaults leave out."""
    defaults = vars(task_class.Config())
    names = {name for stretch in task_class.stretches for name in stretch.steps}
    return {name: STEPS for name in names if isinstance(defaults[name], int)}


def drawing_figures(asked: Asked) -> dict[str, Any]:
    task = finished(asked.task, SETTINGS.get(asked.task, {}))
    draw = drawing(task, asked.size, DRAWN.get(asked.task, {}))
    return {
        "drew": draw().image is not None,
        "seconds": timed(draw),
        "flops": counted(draw),
        "parameters": parameter_counts(task),
    }


def as_it_is(pictures: Tensor) -> Tensor:
    return pictures


def published_norm(norm: InstanceNorm, features: Tensor) -> Tensor:
    return instance_norm(at_least_float32(features), weight=norm.weight, bias=norm.bias, eps=norm.eps)


def counted(work: Callable[[], object]) -> float:
    """FLOPs of convolutions and matrix products, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def matrix_product_rate(dtype: torch.dtype) -> float:
    """FLOPs a second of a 2,048² matrix product, the best of five."""
    first, second = torch.rand(2, 2048, 2048).to(dtype)
    return 2 * 2048**3 / min(timed(lambda: first @ second) for _ in range(5))


if __name__ == "__main__":
    main()
