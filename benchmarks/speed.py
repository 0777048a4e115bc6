"""The survey's table of speed, measured here: `python -m benchmarks.speed [METHOD[/TASK] …]`.

Of every method that draws: trained parameters, all parameters that a drawing reads (with those of its encoder), seconds
at 256² and 512² in one style as large, and how many styles one model knows. Beside it stand the figures that the survey
quotes from MetaStyle (arXiv:1812.05233); on which hardware they were measured is not known. One core, float32, default
settings, random weights of the published widths; the median of three drawings, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.machine import busy
from benchmarks.tasks import drawing, finished, from_child, task_class_of, tasks_named, timed
from stylemodels.export import parameter_counts
from stylemodels.method import Task

SIZES = (256, 512)
RUNS = 3
# Those that optimise each picture, and how they are told which step to take: one such step is measured, and counted as
# often as the default settings have it. An L-BFGS step is more than one evaluation, and all take as long.
ITERATED: Mapping[str, Mapping[str, Any]] = {"gatys/optimise": {"optimizer": "adam"}}
FEW, MORE = 1, 3  # steps; their difference leaves out what is done once


class Published(NamedTuple):
    """A row of the survey's table."""

    method: str
    parameters: str
    seconds_256: float
    seconds_512: float
    styles: str


PUBLISHED: Mapping[str, Published] = {
    "gatys/optimise": Published("Gatys et al.", "N/A", 7.7428, 27.0517, "any"),
    "johnson/train": Published("Johnson et al.", "1.68 M", 0.0044, 0.0146, "1"),
    "wct/train": Published("Li et al.", "34.23 M", 0.6887, 1.2335, "any"),
    "adain/train": Published("Huang et al.", "7.01 M", 0.0165, 0.0320, "any"),
    "aams/avatar-net": Published("Sheng et al.", "147.22 M", 0.5089, 0.6088, "any"),
    "aams/style-swap": Published("Chen et al.", "1.48 M", 0.2679, 1.0890, "any"),
    "metastyle/adapt": Published("MetaStyle", "1.68 M", 0.0047, 0.0145, "any, adapted to each"),
}
NOT_BUILT = Published("Shen et al.", "219.32 M", 0.0045, 0.0147, "any")


class Asked(NamedTuple):
    """What one process measures."""

    task: str
    sizes: Sequence[int]


class Found(NamedTuple):
    """What it measured."""

    parameters: int  # trained ones of the finished model
    read: int  # parameters that a drawing reads, of encoders too
    seconds: Sequence[float]  # by size; none: it draws no pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="METHOD[/TASK]", help="all of them without one")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="PX", help="other sides than published")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(measured(Asked(*json.loads(options.child)))))
        return
    found: dict[str, Found] = {}
    for name in tasks_named(options.tasks):
        found[name] = Found(*from_child("benchmarks.speed", Asked(name, options.sizes)))
        print(f"{name}: {progress(found[name], options.sizes)}; {busy()}", file=sys.stderr, flush=True)
    print(table(found, options.sizes))


def progress(found: Found, sizes: Sequence[int]) -> str:
    times = zip(sizes, found.seconds, strict=False)
    return ", ".join(f"{size}² {seconds:.3g} s" for size, seconds in times) or "draws no pictures"


def table(found: Mapping[str, Found], sizes: Sequence[int]) -> str:
    """In Markdown: a row for every task that draws, and one for the method that is only quoted."""
    times = [f"{size}², s" for size in sizes]
    quoted = ["published, unknown hardware", "its parameters", "its 256², s", "its 512², s", "its styles"]
    head = ["method", "parameters", "with its encoder", *times, "styles", *quoted]
    rows = [row(name, figures) for name, figures in found.items() if figures.seconds]
    rows.append(["not built", *[""] * (len(head) - len(quoted) - 1), *told(NOT_BUILT)])
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, *notes(found)])


def row(name: str, found: Found) -> list[str]:
    about = "≈ " if name in ITERATED else ""
    times = [f"{about}{seconds:.3g}" for seconds in found.seconds]
    quoted = told(PUBLISHED[name]) if name in PUBLISHED else [""] * len(Published._fields)
    return [f"`{name}`", f"{found.parameters:,}", f"{found.read:,}", *times, styles_of(task_class_of(name)), *quoted]


def told(published: Published) -> list[str]:
    seconds = [f"{value:.4f}" for value in (published.seconds_256, published.seconds_512)]
    return [published.method, published.parameters, *seconds, published.styles]


def styles_of(task_class: type[Task]) -> str:
    """How many styles one model draws in."""
    if task_class.styles[1]:
        return "any"
    adapts = task_class.needs.base_model is not None and task_class.needs.style_image
    return "any, adapted to each" if adapts else "1"


def notes(found: Mapping[str, Found]) -> list[str]:
    return [
        f"\n≈ `{name}`: one step of its optimisation times {steps_of(task_class_of(name))}."
        for name in ITERATED
        if name in found
    ]


def steps_of(task_class: type[Task]) -> int:
    steps: int = task_class.Controls().steps
    return steps


def measured(asked: Asked) -> Found:
    task = finished(asked.task, {})
    few: dict[str, Any] = {**ITERATED[asked.task], "steps": FEW} if asked.task in ITERATED else {}
    with Reads(task) as reads:
        drew = drawing(task, asked.sizes[0], few)().image is not None
    seconds = [seconds_of(task, asked.task, size) for size in asked.sizes] if drew else []
    return Found(sum(parameter_counts(task).values()), reads.count(), seconds)


def seconds_of(task: Task, name: str, size: int) -> float:
    """Of a whole drawing."""
    if name not in ITERATED:
        return usual(drawing(task, size, {}))
    few, more = (usual(drawing(task, size, {**ITERATED[name], "steps": steps})) for steps in (FEW, MORE))
    return (more - few) / (MORE - FEW) * steps_of(type(task))


def usual(draw: Callable[[], object]) -> float:
    return median(timed(draw) for _ in range(RUNS))


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parameters the operations inside are given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes = {parameter.data_ptr(): parameter.numel() for parameter in module.parameters()}
        self._seen: set[int] = set()

    def count(self) -> int:
        """Numbers in the parameters that were read, each once."""
        return sum(self._sizes[pointer] for pointer in self._seen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        self._seen |= {tensor.data_ptr() for tensor in given} & self._sizes.keys()
        return func(*args, **(kwargs or {}))


if __name__ == "__main__":
    main()
