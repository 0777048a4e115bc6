"""What a method is made of: `Method`, its `Task`s, and the small things that travel between them and the loop.

A task says which pictures it wants (`streams`), who learns (`optimizers`) and what a step is (`training_step`).
It knows nothing of devices, files, processes or the order of data: those are the loop's (`train.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylemodels.distributed import ALONE, Group, weight_of
from stylemodels.encoders import Encoder
from stylemodels.phases import Stretch, planned
from stylemodels.raster import Raster

# stream name -> (N, 3, H, W); a labelled stream adds "<name>_label": (N,) int64
Batch: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stream:
    """An endless source of training pictures: which, and how cut. Order is a function of (seed, step)."""

    dataset: str  # what the job's `datasets` calls it
    _: KW_ONLY
    count: int  # pictures a step, over all workers
    size: int  # side of the square crop
    load_size: int = 0  # shorter side before the crop; 0 keeps the picture
    squash: bool = False  # aspect ignored: to load_size x load_size before the crop (0: straight to size x size)
    augment: Literal["none", "flip", "tpfr", "ctb", "ctb-artwork", "cifar", "imagenet"] = "none"
    scale_jitter: float | None = None  # how far "tpfr" and both of "ctb" vary the scale; None: as published
    color_jitter: float | None = None  # how far they vary the colours
    centre: bool = False  # the crop is the middle of the picture
    per_class: int = 1  # pictures of one class, drawn together and side by side in the batch
    balanced: bool = False  # every class equally often, however many pictures it has, and never twice in a row
    part: Literal["all", "train", "validation"] = "all"  # split by content hash
    validation_share: float = 0.1  # how much of the pictures the split gives to "validation"
    folds: int = 0  # of classes, instead: one picture in so many of each is for "validation",
    fold: int = 0  # the first of them being this one
    whole: bool = False  # every worker gets all of the batch instead of its part
    together: int = 1  # so many neighbours of the batch (times `per_class`) go to the same worker


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimisers."""

    name: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job must bring besides its settings; checked at submit."""

    datasets: Mapping[str, Literal["images", "labelled"]]
    classes: Mapping[str, str] = field(default_factory=dict)  # dataset -> the setting that lists its classes
    base_model: str | None = None  # "method/task"
    base_model_required: bool = True  # False: the task also starts from random weights
    style_image: bool = False  # one picture, in full size
    min_classes: int = 2  # that every labelled dataset must have
    min_per_class: int = 1  # pictures that each of its classes must have


@dataclass(frozen=True)
class Base:
    """A finished model that a task starts from."""

    method: str
    task: str
    config: Mapping[str, Any]  # complete
    tensors: Mapping[str, Tensor]  # "part.name" -> tensor

    def part(self, name: str) -> dict[str, Tensor]:
        """The state dict of one part. Raises ValueError when the model has none of that name."""
        prefix = f"{name}."
        found = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        if not found:
            parts = sorted({key.partition(".")[0] for key in self.tensors})
            raise ValueError(f"base model {self.method}/{self.task} has no part {name!r}, only {', '.join(parts)}")
        return found


class Given:
    """What a task is built from besides its settings.

    Asking for what the task's `needs` does not name raises LookupError. What is named but was not handed over is None
    (`base`, `style_image`): a finished model is rebuilt from its files alone.
    """

    def __init__(
        self,
        needs: Needs,
        *,
        encoder: Encoder | None = None,
        base: Base | None = None,
        style_image: Tensor | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._needs = needs
        self._encoder = encoder
        self._base = base
        self._style_image = style_image
        self._classes = {dataset: tuple(names) for dataset, names in (classes or {}).items()}

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder that the config's `encoder` names."""
        if self._encoder is None:
            raise LookupError("no encoder was given: the task's Config has no setting `encoder`")
        return self._encoder

    @property
    def base(self) -> Base | None:
        """The base model."""
        if self._needs.base_model is None:
            raise LookupError("the task's `needs` names no base_model")
        return self._base

    @property
    def style_image(self) -> Tensor | None:
        """The style picture (1, 3, H, W) in its full size, RGB in [0, 1]."""
        if not self._needs.style_image:
            raise LookupError("the task's `needs` names no style_image")
        return self._style_image

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Class names in the order of the labels, by the name of the labelled dataset.

        A finished model is given what its `model_facts()["classes"]` said; without it, nothing.
        """
        if "labelled" not in self._needs.datasets.values():
            raise LookupError("the task's `needs` names no labelled dataset")
        return self._classes


@dataclass(frozen=True)
class Regions:
    """Which parts of the content take their style from which parts of the style picture: those of the same label."""

    content: Tensor  # (1, 1, H, W) over the content, int64
    style: Tensor  # (1, 1, H', W') over the style picture, int64


@dataclass(frozen=True)
class Style:
    """A style picture at run time."""

    image: Tensor  # (1, 3, H, W), any H and W
    weight: float = 1.0  # `stylize.py` makes them sum to 1
    # (1, 1, H, W) over the content, in [0, 1]. `stylize.py` gives all styles one or none; then they sum to 1 at every
    # pixel, and the weights are in them already
    mask: Tensor | None = None
    regions: Regions | None = None


@dataclass(frozen=True)
class Picture:
    """A result: the picture and whatever else is worth looking at, by name."""

    image: Tensor | None  # (1, 3, H, W); None from a classifier
    maps: Mapping[str, Tensor] = field(default_factory=dict)  # (1, 1 or 3, h, w) in [0, 1]; (n,): a curve


@dataclass(frozen=True, kw_only=True)
class NoControls:
    """A finished model that takes no instructions."""


class Gradients:
    """Gradients by parameter. They add up: `sum(per_style, Gradients())`."""

    def __init__(self, values: Mapping[nn.Parameter, Tensor] | None = None) -> None:
        self.values: dict[nn.Parameter, Tensor] = dict(values or {})

    def __add__(self, other: Gradients) -> Gradients:
        total = dict(self.values)
        for parameter, value in other.values.items():
            total[parameter] = total[parameter] + value if parameter in total else value
        return Gradients(total)

    def norm(self) -> Tensor:
        """The norm of all of them as one vector, a scalar in float32 at least."""
        values = self.values.values()
        norms = [torch.linalg.vector_norm(v, dtype=torch.promote_types(v.dtype, torch.float32)) for v in values]
        result: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return result


class Task(nn.Module):
    """One way to train (and use) a method's networks. Images are RGB, float32, (N, 3, H, W), in [0, 1]."""

    Config: ClassVar[type]
    Controls: ClassVar[type] = NoControls
    needs: ClassVar[Needs]
    model_parts: ClassVar[tuple[str, ...]]  # the submodules that stylize needs: the published model
    given_parts: ClassVar[tuple[str, ...]] = ()  # submodules that stay as they were given: not in checkpoints
    draws: ClassVar[bool] = True  # False: a finished model makes no pictures, it tells what is on one
    styles: ClassVar[tuple[int, int]] = (1, 1)  # fewest and most styles at run time; (0, 0): the model is the style
    masks: ClassVar[bool] = False  # one mask per style
    regions: ClassVar[bool] = False  # label maps of content and style
    takes_init: ClassVar[bool] = False  # a picture to start from in the content's place
    multiple: ClassVar[int] = 16  # sides are reflect-padded to it
    # And sides of smaller pictures, styles too, to this: two positions in relu5_1, the deepest tap, for a single one
    # cannot be reflected and has no variance.
    least_px: ClassVar[int] = 32
    # What a whole drawing takes at VGG's width: its maps of 64 channels in float32, and work space for a convolution
    # (measured for adain: 1,150 to 1,270 bytes for each pixel).
    bytes_per_px: ClassVar[int] = 1280
    stylize_encodes: ClassVar[bool] = True  # False: a finished model works without the encoder's weights
    trains: ClassVar[bool] = True  # False: nothing is learned, so no job; there is a built-in model of it
    stretches: ClassVar[tuple[Stretch, ...]] = (Stretch("train"),)  # its phases
    strength: ClassVar[str] = ""  # which of the Controls goes from 0, the content, to 1, the style
    shared_out: ClassVar[str | None] = "batch_size"  # the setting whose number workers divide; None: one worker only
    # how the loss of a batch follows from those of its parts; "own": from statistics of the batch, each worker's own
    batch_loss: ClassVar[Literal["mean", "sum", "own"]] = "mean"

    config: Any
    is_based: bool = False  # it starts from a base model, where it need not
    phase: str = ""  # set by the loop, with
    step: int = 0  # the step within it: how many are finished

    def __init__(self, *_: Any) -> None:
        """A task is made as `Task(config, given)` and calls this without either."""
        super().__init__()
        self.active: dict[str, Optimizer] = {}  # the optimisers of the phase
        self.init_image: Tensor | None = None  # (1, 3, H, W), as large as the content; set for one drawing
        self.group: Group = ALONE  # the workers that train it together; set by the loop
        self.report: Callable[[float], None] = lambda share: None  # told how much of a long drawing is done, 0 to 1

    def phases(self) -> list[Phase]:
        """Name and steps of each phase, in order."""
        return [Phase(name, steps) for name, steps in planned(self.stretches, vars(self.config), based=self.is_based)]

    def streams(self) -> dict[str, Stream]:
        """The pictures of the next step; may look at `self.phase` and `self.step`."""
        raise TypeError(f"{type(self).__name__} must say which pictures it trains on: streams()")

    def calibrate(self, batch: Batch) -> None:
        """Once, before the first step: constants into buffers."""

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers of `self.phase`. What none of them holds is frozen in it."""
        raise TypeError(f"{type(self).__name__} must say who learns: optimizers()")

    def lr_scale(self, name: str) -> float:
        """What the rates of optimiser `name` are multiplied with at `self.step`."""
        return 1.0

    def begin(self, phase: str, step: int) -> None:
        """Enter a phase: fresh optimisers, everything else frozen. Called by the loop."""
        self.phase, self.step = phase, step
        self.active = self.optimizers()
        learning = {p for optimizer in self.active.values() for p in parameters_of(optimizer)}
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in learning)
        for optimizer in self.active.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step. Returns named terms, which the loop detaches and plots."""
        terms: dict[str, Tensor] = self(batch)
        self.update(self.gradients(torch.stack(list(terms.values())).sum()))
        return terms

    def gradients(self, loss: Tensor, *names: str, retain_graph: bool = False) -> Gradients:
        """Of these optimisers' parameters only (all, if none is named): autograd.grad, nothing else is touched.

        A parameter that the loss does not depend on is left out, so its optimiser passes over it.
        """
        parameters = [p for name in names or self.active for p in parameters_of(self.active[name])]
        values = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        return Gradients({p: value for p, value in zip(parameters, values, strict=True) if value is not None})

    def update(self, *gradients: Gradients, clip_norm: float | None = None) -> Tensor:
        """Average over the workers in one flat buffer, clip, set the rates, step.

        clip_norm: longest allowed gradient, over all parameters at once. Returns the norm before the clip.
        """
        total = self._over_workers(sum(gradients, Gradients()))
        norm = total.norm()
        clip = 1.0 if clip_norm is None else (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for name, optimizer in self.active.items():
            mine = [p for p in parameters_of(optimizer) if p in total.values]
            if not mine:
                continue
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.lr_scale(name)
            for parameter in mine:
                value = total.values[parameter]
                parameter.grad = value if clip_norm is None else value * clip
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def worker_weight(self) -> float:
        """What this worker's gradients and losses count in those of all: its share of the pictures, or 1 of a sum."""
        if self.batch_loss == "sum":
            return 1.0
        return weight_of(list(self.streams().values()), self.group.rank, self.group.size)

    def _over_workers(self, gradients: Gradients) -> Gradients:
        """Of the whole batch. Every worker must bring the same parameters in the same order."""
        if self.group.size == 1:
            return gradients
        values = self.group.weighted_sum(list(gradients.values.values()), self.worker_weight())
        return Gradients(dict(zip(gradients.values, values, strict=True)))

    def validation_streams(self) -> dict[str, Stream]:
        """The pictures that `evaluate` sees, best of `part="validation"`; without any it is not called."""
        return {}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Figures over one round of `validation_streams`, by name; at every checkpoint, plotted as `validation_...`."""
        raise TypeError(f"{type(self).__name__} has validation_streams but does not say what to measure: evaluate()")

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        """`content` (1, 3, H, W), sides multiples of `multiple`, in the mixture of `styles`."""
        raise TypeError(f"{type(self).__name__} draws no pictures")

    def stylize_video(self, frames: Iterator[Tensor], styles: Sequence[Style], controls: Any) -> Iterator[Picture]:
        """One by one, unless the method knows better."""
        return (self.stylize(frame, styles, controls) for frame in frames)

    def video_state(self) -> dict[str, Tensor]:
        """What the next picture of `stylize_video` depends on besides its frame; nothing by default."""
        return {}

    def load_video_state(self, state: Mapping[str, Tensor]) -> None:
        """Have the next `stylize_video` go on where `video_state` was taken; from {} it begins anew."""

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: Any, *, tile: int
    ) -> None:
        """As `stylize`, of any size: from one raster into another as large, in squares of `tile` pixels.

        Equal to `stylize` but for rounding. Raises ValueError where the method cannot.
        """
        raise ValueError("this method draws whole pictures only: what it does at one place depends on all others")

    def onnx_form(self) -> nn.Module | str:
        """The finished model at its default controls as a module that ONNX can say, or why there is none.

        The module takes content (1, 3, H, W) and, where the model takes styles, style (1, 3, H', W'), all sides
        multiples of `multiple`, and gives (1, 3, H, W), not clamped.
        """
        return "the method has not said how"

    def preview_streams(self) -> dict[str, Stream]:
        """The pictures of the preview grid, drawn once per job: at most four of each stream."""
        return {name: replace(s, count=min(s.count, 4), augment="none") for name, s in self.streams().items()}

    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The preview grid: named pictures (3, H, W). `batch` is one draw of `preview_streams`."""
        styles = [Style(image[None]) for image in batch["style"]] if self.styles[1] else []
        grid = [(f"style-{n}", style.image[0]) for n, style in enumerate(styles, start=1)]
        for n, content in enumerate(batch["content"], start=1):
            grid.append((f"content-{n}", content))
            for m, chosen in enumerate([[style] for style in styles] or [[]], start=1):
                picture = self.stylize(content[None], chosen, self.Controls())
                if picture.image is not None:
                    grid.append((f"result-{n}-{m}" if styles else f"result-{n}", picture.image[0]))
        return grid

    def model_tensors(self) -> dict[str, Tensor]:
        """What is published: the state of `model_parts`."""
        return {key: value for key, value in self.state_dict().items() if key.partition(".")[0] in self.model_parts}

    def load_model_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `model_tensors` gave. Raises ValueError when names or shapes differ."""
        load_exactly(self, tensors, self.model_tensors())

    def model_facts(self) -> dict[str, Any]:
        """What else the model's config.json says, JSON."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method. One stands at the end of every file under `methods/`, which is how it is found."""

    slug: str
    title: str
    paper: str
    tasks: Mapping[str, type[Task]]


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Every parameter that an optimiser holds, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into `module`, which must have asked for exactly these names and shapes (`expected`).

    Raises ValueError that names the first difference.
    """
    for name in expected:
        if name not in tensors:
            raise ValueError(f"tensor {name!r} is missing")
        if tensors[name].shape != expected[name].shape:
            raise ValueError(f"{name!r} has shape {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}")
    if extra := sorted(set(tensors) - set(expected)):
        raise ValueError(f"tensor {extra[0]!r} belongs to another architecture")
    module.load_state_dict(dict(tensors), strict=False)
