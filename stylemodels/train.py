"""The training loop: `Run` steps a task, and takes and restores its whole state.

Two halves with a checkpoint between them give the same bits as one run: data order is a function of (seed, step), and
everything else that a step reads is in the state.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylemodels.blocks import InstanceNorm
from stylemodels.checkpoint import State, packed, unpacked
from stylemodels.distributed import ALONE, Group, weight_of
from stylemodels.encoders import Encoder
from stylemodels.method import Base, Batch, Given, Phase, Stream, Task, load_exactly, parameters_of


class Diverged(Exception):
    """A term of the loss, or a weight, is no longer a number; the weights of this step are of no use."""

    def __init__(self, term: str, step: int, value: float) -> None:
        self.term, self.step, self.value = term, step, value
        super().__init__(f"{term} became {value} in step {step}: lower the learning rate or the weight of a loss")


def build_task(
    task_class: type[Task],
    config: Any,
    *,
    seed: int,
    encoder: Encoder | None = None,
    base: Base | None = None,
    style_image: Tensor | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    device: torch.device | str = "cpu",
) -> Task:
    """A task with the weights that `seed` (or the base model) gives it, on `device`.

    style_image: (1, 3, H, W) in [0, 1]. Raises ValueError when something that the task needs was not given.
    """
    needs = task_class.needs
    if needs.base_model and needs.base_model_required and base is None:
        raise ValueError(f"base_model: none was given, this task starts from a model of {needs.base_model}")
    if base is not None and needs.base_model != f"{base.method}/{base.task}":
        raise ValueError(f"base_model: a model of {base.method}/{base.task} was given, allowed is {needs.base_model}")
    if needs.style_image and style_image is None:
        raise ValueError("style_image: none was given, this task learns the style of one picture")
    seed_everything(seed)
    given = Given(needs, encoder=encoder, base=base, style_image=style_image, classes=classes)
    return task_class(config, given).to(device)


class Run:
    """One training from its first step to its last."""

    def __init__(self, task: Task, *, seed: int, device: torch.device | str = "cpu", group: Group = ALONE) -> None:
        """task: freshly built on `device`. seed: of all random numbers that steps draw: every worker draws the same.

        group: the workers that train it together; every one of them must make the same calls.
        Raises ValueError when the pictures of a step cannot be shared out to them.
        """
        lay_out(task, torch.device(device))
        self.task, self.group = task, group
        task.group = group
        self.seed = seed
        self.device = torch.device(device)
        self.step = 0  # finished steps over all phases
        self.phases: Sequence[Phase] = task.phases()
        self.total_steps = sum(phase.steps for phase in self.phases)
        seed_everything(seed)
        self._enter()

    def streams(self) -> dict[str, Stream]:
        """The pictures that the next step wants."""
        return self.task.streams()

    def advance(self, batch: Batch) -> dict[str, float]:
        """One training step on this worker's part of the batch. Returns the terms of the whole batch.

        Raises Diverged when one of them is not finite, PeerLost when another worker has left.
        """
        batch = channels_last_batch(batch)
        if self.step == 0:
            self._calibrate(batch)
        low = self.task.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            terms = self.task.training_step(batch)
        values = torch.stack([torch.as_tensor(t, device=self.device).detach().float() for t in terms.values()]).tolist()
        named = self._over_workers(dict(zip(terms, values, strict=True)))
        for name, value in named.items():
            if not math.isfinite(value):
                raise Diverged(name, self.step + 1, value)
        self.step += 1
        phase, within = self._position()
        if phase.name == self.task.phase:
            self.task.step = within
        else:
            self._enter()
            self.agree()
        return named

    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The task's preview grid: named pictures (3, H, W) in [0, 1]. Training does not notice."""
        with finished(self.task), unchanged_randomness():
            return [(name, picture.detach().float().clamp(0, 1).cpu()) for name, picture in self.task.preview(batch)]

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The task's figures over validation pictures as `validation_...`. Training does not notice."""
        with finished(self.task), unchanged_randomness(), torch.no_grad():
            figures = self.task.evaluate(map(channels_last_batch, batches))
        return {f"validation_{name}": float(value) for name, value in figures.items()}

    def snapshot(self) -> State:
        """A copy of the whole state on the CPU, to be written while training goes on.

        Raises Diverged where a weight is no number: such a state must not take the place of a good one.
        """
        weights = copied(trained_state(self.task))
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise Diverged(name, self.step, float(tensor[~tensor.isfinite()][0]))
        return State(
            step=self.step,
            weights=weights,
            optimizer=copied(self._optimizer_tensors()),
            random=random_states(),
            facts={"seed": self.seed, "phase": self.task.phase, "phase_step": self.task.step},
        )

    def restore(self, state: State) -> None:
        """Go on from a snapshot of the same task. Raises ValueError when it is another's."""
        if not 0 <= state.step <= self.total_steps:
            raise ValueError(f"the checkpoint is of step {state.step}, this run has {self.total_steps} steps")
        self.step = state.step
        self._enter()
        load_exactly(self.task, state.weights, trained_state(self.task))
        self._restore_optimizers(state.optimizer)
        restore_random_states(state.random)

    def agree(self) -> None:
        """Take over rank 0's state, on every worker."""
        if self.group.size > 1:
            told = self.group.words_of_first(packed(self.snapshot()) if self.group.rank == 0 else b"")
            if self.group.rank > 0:
                self.restore(unpacked(told))

    def _calibrate(self, batch: Batch) -> None:
        """On the whole batch, by rank 0."""
        if self.group.size == 1:
            self.task.calibrate(batch)
            return
        streams = self.task.streams()
        whole = {
            name: part if streams[name.removesuffix("_label")].whole else self.group.joined(part)
            for name, part in batch.items()
        }
        if self.group.rank == 0:
            self.task.calibrate(whole)
        self.agree()

    def _over_workers(self, terms: dict[str, float]) -> dict[str, float]:
        """Of the whole batch: losses as the task says, everything else as a mean."""
        if self.group.size == 1:
            return terms
        share = weight_of(list(self.task.streams().values()), self.group.rank, self.group.size)
        weights = [self.task.worker_weight() if name.endswith("_loss") else share for name in terms]
        total = torch.tensor(list(terms.values()), dtype=torch.float64) * torch.tensor(weights, dtype=torch.float64)
        self.group.add_up(total)
        return dict(zip(terms, total.tolist(), strict=True))

    def _position(self) -> tuple[Phase, int]:
        """The phase of the next step and the steps already done in it; after the end, the last phase's end."""
        before = 0
        for phase in self.phases:
            if self.step < before + phase.steps:
                return phase, self.step - before
            before += phase.steps
        last = self.phases[-1]
        return last, last.steps

    def _enter(self) -> None:
        phase, within = self._position()
        self.task.begin(phase.name, within)
        if self.group.size > 1:  # what cannot be shared out is refused here
            weight_of(list(self.task.streams().values()), self.group.rank, self.group.size)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, optimizer in self.task.active.items():
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in values.items()}
        return tensors

    def _restore_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self.task.active}
        for path, value in tensors.items():
            name, index, key = path.split("/")
            if name not in states:
                raise ValueError(f"the checkpoint has an optimiser {name!r}, phase {self.task.phase!r} has none")
            parameter = parameters_of(self.task.active[name])[int(index)]
            # Adam's moments lie in memory as their parameter does
            layout = torch.empty_like(parameter, dtype=value.dtype) if value.ndim else torch.empty_like(value)
            states[name].setdefault(int(index), {})[key] = layout.copy_(value)
        for name, optimizer in self.task.active.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states[name], "param_groups": groups})


def due(step: int, every: int, total_steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `step`."""
    return step == total_steps or (step > 0 and step % every == 0)


def preview_due(config: Any, step: int, total_steps: int) -> bool:
    """Whether the preview grid is drawn after `step`: `preview_every`, and `preview_steps` where a task has it."""
    return due(step, config.preview_every, total_steps) or step in getattr(config, "preview_steps", ())


def trained_state(task: Task) -> dict[str, Tensor]:
    """The state dict without encoders and parts that stay as they were given."""
    fixed = [f"{name}." for name, module in task.named_modules() if isinstance(module, Encoder)]
    fixed += [f"{name}." for name in task.given_parts]
    return {key: value for key, value in task.state_dict().items() if not key.startswith(tuple(fixed))}


def lay_out(task: Task, device: torch.device) -> None:
    """Weights where steps are fastest: channels last, what GPUs like, and on a CPU 1.1 to 1.2 times as fast (measured).

    On a CPU not those of networks with instance norms, whose backward pass wants channels first: layers would change
    their inputs' layout back and forth (measured: up to 1.15 times as long a step).
    """
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type != "cpu":
        return
    for network in task.children():
        if any(isinstance(layer, InstanceNorm) for layer in network.modules()):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last) if pictures.ndim == 4 else pictures


def channels_last_batch(batch: Batch) -> Batch:
    return {name: channels_last(pictures) for name, pictures in batch.items()}


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Tensor]:
    """The random states of Python, numpy and torch as tensors."""
    version, numbers, gauss = random.getstate()
    assert version == 3, "Python's Mersenne Twister"
    numpy_state = np.random.get_state(legacy=False)
    twister = numpy_state["state"]
    states = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*twister["key"].tolist(), twister["pos"], numpy_state["has_gauss"]]),
        "numpy_gauss": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states |= {f"cuda_{n}": state for n, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Set what `random_states` gave. Devices that this machine lacks are passed over."""
    gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss[0] if gauss else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    cached = states["numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    for n in range(torch.cuda.device_count()):
        if f"cuda_{n}" in states:
            torch.cuda.set_rng_state(states[f"cuda_{n}"], n)


@contextmanager
def finished(task: Task) -> Iterator[None]:
    """Inside, the task is as it will be once it is trained: batch norms take what they have gathered."""
    training = task.training
    task.eval()
    try:
        yield
    finally:
        task.train(training)


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Random numbers drawn inside do not show outside."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
