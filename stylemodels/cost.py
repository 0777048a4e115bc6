"""What a training step costs: floating point operations, bytes moved, bytes held, counted without doing any of it.

A step runs on fake tensors, which have shapes and no memory, so the largest setting is counted as quickly as the
smallest. A value that a step asks for is taken to be true, or 1: what it checks is as it should be.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from stylemodels.encoders import Encoder, weightless_encoder
from stylemodels.method import Base, Batch, Given, Needs, Task
from stylemodels.methods import find_task
from stylemodels.settings import as_json, build

STYLE_SIDE = 512  # of the style picture that a task is given, pixels


@dataclass(frozen=True)
class StepCost:
    """Of one step of a phase, all workers together."""

    name: str  # of the phase
    flops: int  # a multiplication and an addition are two
    bytes: int  # read and written by all operations, as if nothing stayed in a cache
    peak_bytes: int  # of tensors that are alive at the same time: weights, optimiser, activations


def step_costs(
    task: str, config: Mapping[str, Any], base_config: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The cost of a step in each phase of `method/task` at these settings.

    base_config: complete, of the base model; the base task's defaults where it needs one and nothing is said.
    Raises ValueError for settings that cannot be used.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch's own deepcopy does
        made = _weightless(task, config, base_config)
        return [asdict(_counted(made, phase.name)) for phase in made.phases()]


def some_classes(needs: Needs, settings: Any) -> dict[str, tuple[str, ...]]:
    """Names for the classes of every labelled dataset: those of a setting, or any two."""
    labelled = [name for name, kind in needs.datasets.items() if kind == "labelled"]
    return {name: getattr(settings, needs.classes.get(name, ""), ("one", "other")) for name in labelled}


def _weightless(task: str, config: Mapping[str, Any], base_config: Mapping[str, Any] | None) -> Task:
    method, name = find_task(task)
    task_class = method.tasks[name]
    needs = task_class.needs
    base = None
    if needs.base_model and (base_config is not None or needs.base_model_required):
        base = _weightless_base(needs.base_model, base_config or {})
    settings: Any = build(task_class.Config, config, None if base is None else base.config)
    given = Given(
        needs,
        encoder=_encoder(settings),
        base=base,
        style_image=torch.empty(1, 3, STYLE_SIDE, STYLE_SIDE) if needs.style_image else None,
        classes=some_classes(needs, settings),
    )
    return task_class(settings, given)


def _weightless_base(task: str, config: Mapping[str, Any]) -> Base:
    made = _weightless(task, config, None)
    method, name = find_task(task)
    return Base(method.slug, name, as_json(made.config), made.model_tensors())


def _encoder(settings: Any) -> Encoder | None:
    return weightless_encoder(settings.encoder) if hasattr(settings, "encoder") else None


def _counted(task: Task, phase: str) -> StepCost:
    """Of the second step: the first one makes the optimisers' state besides."""
    task.begin(phase, 0)
    batch = _batch(task)
    task.calibrate(batch)
    with _live_bytes(task) as tally:
        task.training_step(batch)
        tally.reset()
        with FlopCounterMode(display=False) as flops:
            task.training_step(batch)
    return StepCost(phase, flops.get_total_flops(), tally.moved, tally.peak)


def _batch(task: Task) -> Batch:
    batch: dict[str, Tensor] = {}
    for name, stream in task.streams().items():
        batch[name] = torch.empty(stream.count, 3, stream.size, stream.size)
        if task.needs.datasets.get(stream.dataset) == "labelled":
            batch[f"{name}_label"] = torch.empty(stream.count, dtype=torch.int64)
    return batch


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations move, and those of storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = self.live = self.peak = 0
        self._known: set[int] = set()

    def reset(self) -> None:
        """Count anew from here; what is alive stays."""
        self.moved, self.peak = 0, self.live

    def hold(self, tensor: Tensor) -> None:
        """A storage is alive until its last tensor goes."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            return args[0].dtype is torch.bool or 1
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self.hold(tensor)
        if not func.is_view:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in [*read, *made])
        return result


@contextmanager
def _live_bytes(task: Task) -> Iterator[_Tally]:
    tally = _Tally()
    for tensor in [*task.parameters(), *task.buffers()]:
        tally.hold(tensor)
    with tally:
        yield tally
