"""Training steps and drawings of every method: `python -m benchmarks.step [METHOD/TASK …]`.

Each figure comes from a process of its own on one core: images a second of a training step in three forms (as the
published code has it: float32, channels first, PyTorch's own instance norm; ours: channels last; and bf16), megapixels
a second of drawing at 256², 512² and 1,024², peak memory, FLOPs, and how much of the core's matrix product rate is
reached. Encoders have the published widths with random weights: speed does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import instance_norm
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import busy
from stylemodels import train as loop
from stylemodels.blocks import InstanceNorm
from stylemodels.encoders import Encoder, EncoderName
from stylemodels.export import parameter_counts
from stylemodels.method import Base, Style, Task
from stylemodels.methods import all_methods, find_task
from stylemodels.settings import as_json, build
from stylemodels.stylize import outline
from stylemodels.train import Run, build_task
from stylemodels.vgg import VGG16_DEPTHS, VGG19_DEPTHS, VGG_WIDTHS, Vgg, randomise

SIZES = (256, 512, 1024)
FORMS = ("as published", "channels last", "bf16")
BATCH = 2  # pictures of each stream; what a step costs is proportional
STEPS = 3  # of each phase; the first of them is not counted
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # one level of those that train five alike
    "collaborative-distillation/distill": {"stages": (5,)},
    "collaborative-distillation/train-decoder": {"stages": (5,)},
    "wct/train": {"levels": (5,)},
    "metastyle/train": {"meta_batch": 1},
}
DRAWN: Mapping[str, Mapping[str, Any]] = {"gatys/optimise": {"steps": 1}}


class Asked(NamedTuple):
    """What one process measures."""

    task: str
    form: str
    size: int  # 0: a training step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="METHOD/TASK; all of them without one")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(measured(Asked(*json.loads(options.child)))))
        return
    peaks = {dtype: matrix_product_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f} GFLOP/s".removeprefix("torch.") for dtype, rate in peaks.items())
    print(f"matrix product of 2,048², one core: {rates}; {busy()}\n")
    for name in options.tasks or every_task():
        if find_class(name).trains:
            training(name, peaks)
        drawing(name, peaks[torch.float32])


def training(name: str, peaks: Mapping[torch.dtype, float]) -> None:
    by_form = {form: child(Asked(name, form, 0)) for form in FORMS}
    for phase, first in by_form[FORMS[0]]["phases"].items():
        figures = []
        for form in FORMS:
            found = by_form[form]["phases"][phase]
            share = found["flops"] / found["seconds"] / peaks[torch.bfloat16 if form == "bf16" else torch.float32]
            faster = first["seconds"] / found["seconds"]
            rate = found["images"] / found["seconds"]
            figures.append(f"{form} {rate:.2f} images/s ({faster:.2f}x, {share:.0%} of the product's rate)")
        flops = first["flops"] / first["images"] / 1e9
        memory = by_form["channels last"]["peak_mib"]
        print(f"{name} {phase}: {'; '.join(figures)}; {flops:.0f} GFLOP an image, peak {memory:.0f} MiB", flush=True)


def drawing(name: str, peak: float) -> None:
    figures = []
    for size in SIZES:
        found = child(Asked(name, "channels last", size))
        rate, share = size * size / 1e6 / found["seconds"], found["flops"] / found["seconds"] / peak
        flops = found["flops"] / 1e9
        figures.append(f"{size}² {rate:.3f} Mpx/s, {flops:.0f} GFLOP ({share:.0%}), {found['peak_mib']:.0f} MiB")
    parts = ", ".join(f"{part} {count:,}" for part, count in found["parameters"].items())
    print(f"{name} draws: {'; '.join(figures)}; parameters: {parts or 'none'}; {busy()}", flush=True)


def child(asked: Asked) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.step", "--child", json.dumps(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(asked: Asked) -> dict[str, Any]:
    """In a process of its own, so that the peak is its own too."""
    found = step_figures(asked) if asked.size == 0 else drawing_figures(asked)
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def step_figures(asked: Asked) -> dict[str, Any]:
    settings = {"steps": STEPS, "batch_size": BATCH, "precision": "bf16" if asked.form == "bf16" else "fp32"}
    task = built(asked.task, settings)
    if asked.form == "as published":
        loop.channels_last = as_it_is  # this process does nothing else
        InstanceNorm.forward = published_norm  # type: ignore[method-assign]
    run = Run(task, seed=0)
    if asked.form == "as published":
        task.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    phases: dict[str, dict[str, float]] = {}
    while run.step < run.total_steps:
        phase, first = task.phase, task.step == 0
        batch = {name: torch.rand(s.count, 3, s.size, s.size) for name, s in run.streams().items()}
        if first:
            images = float(sum(len(pictures) for pictures in batch.values()))
            phases[phase] = {"flops": counted(lambda batch=batch: run.advance(batch)), "images": images}
        else:
            seconds = timed(lambda batch=batch: run.advance(batch))
            phases[phase]["seconds"] = min(seconds, phases[phase].get("seconds", seconds))
    return {"phases": phases}


def drawing_figures(asked: Asked) -> dict[str, Any]:
    task = built(asked.task, {}).eval()
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture, style = torch.rand(2, 1, 3, asked.size, asked.size)
    styles = [Style(style)] if task.styles[1] else []
    controls = build(task.Controls, DRAWN.get(asked.task, {}))
    seconds = timed(lambda: task.stylize(picture, styles, controls))
    return {
        "seconds": seconds,
        "flops": counted(lambda: task.stylize(picture, styles, controls)),
        "parameters": parameter_counts(task),
    }


def built(name: str, settings: Mapping[str, Any]) -> Task:
    """The task at its published sizes."""
    task_class = find_class(name)
    allowed = set(task_class.Config.__dataclass_fields__)
    wanted = {key: value for key, value in {**SETTINGS.get(name, {}), **settings}.items() if key in allowed}
    needs = task_class.needs
    base = base_of(needs.base_model) if needs.base_model and needs.base_model_required else None
    config = build(task_class.Config, wanted, None if base is None else base.config)
    encoder = full_size(config.encoder) if hasattr(config, "encoder") else None
    style_image = torch.rand(1, 3, 512, 512) if task_class.needs.style_image else None
    return build_task(task_class, config, seed=0, encoder=encoder, base=base, style_image=style_image)


def base_of(name: str) -> Base:
    task = built(name, {})
    method, _, task_name = name.partition("/")
    return Base(method, task_name, as_json(task.config), task.model_tensors())


def full_size(name: EncoderName) -> Encoder:
    """An encoder of the published widths with random weights."""
    depths = VGG16_DEPTHS if name == "vgg16" else VGG19_DEPTHS
    network = Vgg(depths, VGG_WIDTHS, padding="zero" if name in ("vgg16", "vgg19") else "reflect", pooling="max")
    randomise(network)
    return Encoder(name, outline(name).channels, network)


def find_class(name: str) -> type[Task]:
    method, task = find_task(name)
    return method.tasks[task]


def every_task() -> list[str]:
    return [f"{method.slug}/{task}" for method in all_methods().values() for task in method.tasks]


def as_it_is(pictures: Tensor) -> Tensor:
    return pictures


def published_norm(norm: InstanceNorm, features: Tensor) -> Tensor:
    return instance_norm(features.to(norm.weight.dtype), weight=norm.weight, bias=norm.bias, eps=norm.eps)


def timed(work: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at


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
