"""ETNet: Error Transition Network for Arbitrary Style Transfer, Song et al. 2019 (arXiv:1910.12056).

A pyramid of networks, k = 3 the coarsest. Each looks at what is still wrong with the stylisation x and adds to it:

    Dc = phi_4(x) - phi_4(c),  Ds_i = sqrt G^i(x) - sqrt G^i(s)      at its own scale and, of relu4_1, at coarser ones
    x_k = tanh(ETNet_k(phi(x), Dc, Ds) + x);  x = u(x_k)             u doubles the sides; the first x is all zero
    L_k = content_weight L_pc + style_weight L_ps + tv_weight L_TV   equations 7 and 8

phi_i are a fixed encoder's features at relu{i}_1, G^i = phi_i phi_i^T / (h w). The levels are trained one after the
other, the coarser ones frozen; errors are constants. In here pictures are in [-1, 1], as tanh gives them.
The square root, the sums in place of concatenations and the twofold use of decoders are the authors' code's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim import Adam, Optimizer

from stylemodels.attention import Form
from stylemodels.distributed import part_of
from stylemodels.encoders import EncoderName
from stylemodels.error_encoder import (
    DEEPEST,
    TAPS,
    EncoderInput,
    ErrorEncoder,
    GramError,
    Reduction,
    Target,
    coarser,
    content_terms,
    finer,
    signed,
    style_terms,
    unsigned,
)
from stylemodels.error_transition import ErrorTransition, truncated_normal_
from stylemodels.features import at_least_float32
from stylemodels.losses import tv_loss
from stylemodels.method import Batch, Given, Method, Needs, Phase, Picture, Stream, Style, Task, load_exactly
from stylemodels.phases import Stretch
from stylemodels.settings import Common, setting

Init = Literal["zeros", "noise"]
PerLevel = tuple[float, float, float]  # of levels 3, 2 and 1

COARSEST = 3
STRIDE = 8  # of relu4_1
SHOWN = ("start", "content_error", "style_error", "residual", "out")  # a row of a preview


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `etnet/train`; the defaults are the published ones."""

    levels: tuple[int, ...] = setting(
        (3, 2, 1), "the pyramid: 3, or 3 and 2, or all; the last one is as large as the picture", ge=1, le=3
    )
    steps: int = setting(100_000, "training steps of each level", ge=1, le=1_000_000)
    level_steps: tuple[int, ...] = setting(
        (), "steps of each level, 0 for one that stays as the base model has it; none: steps", ge=0, le=1_000_000
    )
    batch_size: int = setting(4, "content-style pairs per step, over all workers", ge=1, le=64)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture, as the code does", ge=0)
    content_size: int = setting(256, "side of the content crop at the level in training", ge=32, multiple_of=16)
    style_size: int = setting(256, "side of the style crop at the level in training", ge=32, multiple_of=16)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    lr_decay: float = setting(5e-5, "the rate is lr / (1 + lr_decay * step), in each level anew", ge=0)
    grad_clip: float | None = setting(1.0, "longest gradient, over the batch and all parameters; null = off", gt=0)
    content_weight: PerLevel = setting((1.0, 1.0, 1.0), "of equation 7, at levels 3, 2 and 1", ge=0)
    style_weight: PerLevel = setting((2.0, 5.0, 8.0), "of equation 8, at levels 3, 2 and 1", ge=0)
    tv_weight: PerLevel = setting((1e-6, 1e-6, 1e-6), "of total variation, at levels 3, 2 and 1", ge=0)
    loss_form: Literal["slides", "official"] = setting(
        "slides", "as the paper writes it; official: as the code computes it, by the next two and without tv_weight"
    )
    style_divisor: PerLevel = setting((4.0, 2.0, 1.0), "official: the style term is divided by it, a GPU's batch", gt=0)
    relu1_extra: PerLevel = setting((0.0, 6.0, 10.0), "official: weight of one more style term, of relu1_1", ge=0)
    reduction: Reduction = setting("mean", "of a difference: its mean square, or its length as the paper prints it")
    gram_error: GramError = setting(
        "sqrt", "style errors: of the Gram matrices' roots, entry by entry, or of themselves", from_base=True
    )
    init: Init = setting("zeros", "what the coarsest level starts from; the code takes noise")
    init_std: float = setting(0.1, "deviation of the noise, cut off at twice that; pictures are in [-1, 1]", gt=0)
    start_std: float = setting(0.001, "deviation of the networks' weights at the start", gt=0)
    vgg_input: EncoderInput = setting(
        "unit", "the encoder sees [0, 1], as it was made for, or raw, as in the code, [-1, 1]", from_base=True
    )
    encoder: EncoderName = setting("vgg19-normalised", "the fixed encoder phi", from_base=True)
    attention: Form = setting(
        "sdpa", "PyTorch's fused kernel, the full map, or the map in chunks; results agree but for rounding"
    )
    chunk: int = setting(1024, "positions at a time, with attention chunked", ge=1)


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told; alpha and errors are ours."""

    alpha: float = setting(1.0, "0 keeps the content, 1 takes the stylisation; a blend of the two pictures", ge=0, le=1)
    errors: bool = setting(True, "false: the same networks are told that nothing is wrong, to see what errors are for")
    start_level: int = setting(3, "the level where a picture that was given to start from enters", ge=1, le=3)
    output_level: int = setting(1, "the last level to draw; a coarser one than the model's is enlarged", ge=1, le=3)
    init: Init | None = setting(None, "what to start from where no picture was given; null: as in training")
    seed: int = setting(0, "of the noise to start from", ge=0)


class Transition(NamedTuple):
    """One level at work. Pictures are (N, 3, H, W)."""

    start: Tensor
    features: Tensor  # of `start` at relu4_1
    residual: Tensor
    image: Tensor  # in (-1, 1)


class Train(Task):
    """Trains the levels one after the other; a base model's are taken over, as far as it has them."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(
        datasets={"content": "images", "style": "images"}, base_model="etnet/train", base_model_required=False
    )
    stretches = (Stretch("level", ("level_steps", "steps"), each="levels"),)
    model_parts = ("levels",)
    styles = (1, 8)
    multiple = 32
    strength = "alpha"
    takes_init = True
    bytes_per_px = 4900  # measured at the published width: the errors of three scales besides

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        check_levels(config)
        self.config = config
        self.encoder = given.encoder
        self.measure = ErrorEncoder(self.encoder, config.gram_error, config.vgg_input)
        channels = self.encoder.channels
        network = partial(ErrorTransition, start_std=config.start_std, form=config.attention, chunk=config.chunk)
        self.levels = nn.ModuleDict({named(k): network(channels, COARSEST - k) for k in config.levels})
        self.brought: tuple[int, ...] = ()  # levels that the base model has
        if given.base is not None:
            self.is_based = True
            self.brought = tuple(k for k in config.levels if k in given.base.config["levels"])
            for k in self.brought:
                network_k = self.levels[named(k)]
                load_exactly(network_k, given.base.part(f"levels.{named(k)}"), network_k.state_dict())

    def phases(self) -> list[Phase]:
        """Raises ValueError for a level without steps that no base model brings."""
        phases = super().phases()
        for level, phase in zip(self.config.levels, phases, strict=True):
            if phase.steps == 0 and level not in self.brought:
                raise ValueError(f"level_steps: 0 was given for level {level}, but no base model brings that level")
        return phases

    def streams(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)
        return {"content": photos, "style": replace(photos, dataset="style", size=c.style_size)}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"level": Adam(self.levels[self.phase].parameters(), lr=self.config.lr)}

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        terms = self(batch)
        total = torch.stack(list(terms.values())).sum()
        norm = self.update(self.gradients(total), clip_norm=self.config.grad_clip)
        return {**terms, "gradient_norm": norm}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of the phase's level, from its output alone; their sum is minimised."""
        levels = self.begun()
        level = levels[-1]
        content, style = signed(batch["content"]), signed(batch["style"])
        with torch.no_grad():
            targets = {
                k: self.measure.target(coarser(content, k - level), [Style(coarser(style, k - level))]) for k in levels
            }
            start = self.first(coarser(content, COARSEST - level))
            for k in levels[:-1]:
                start = finer(self.transition(k, start, targets).image)
        return self.loss_terms(level, self.transition(level, start, targets).image, targets)

    def loss_terms(self, level: int, output: Tensor, targets: Mapping[int, Target]) -> dict[str, Tensor]:
        """Equations 7 and 8 and total variation of a level's output (N, 3, H, W), weighted.

        targets: level -> target, the coarsest first, as far as `level`.
        """
        c, place = self.config, COARSEST - level
        official = c.loss_form == "official"
        seen = {
            k: self.measure.seen(coarser(output, k - level), TAPS if official or k == level else (DEEPEST,))
            for k in targets
        }
        style_loss = torch.stack(style_terms(seen, targets, c.reduction)).sum()
        if official:
            extra = style_terms({level: {TAPS[0]: seen[level][TAPS[0]]}}, targets, c.reduction)[0]
            style_loss = style_loss / c.style_divisor[place] + c.relu1_extra[place] * extra
        terms = {
            "content_loss": c.content_weight[place] * torch.stack(content_terms(seen, targets, c.reduction)).sum(),
            "style_loss": c.style_weight[place] * style_loss,
        }
        return terms if official else {**terms, "tv_loss": c.tv_weight[place] * tv_loss(output)}

    def transition(self, level: int, start: Tensor, targets: Mapping[int, Target], *, told: bool = True) -> Transition:
        """A level's work on `start` (N, 3, H, W). Errors and features are constants to the gradient.

        targets: level -> target, the coarsest first, at least as far as `level`. told: False hides the errors.
        """
        with torch.no_grad():  # the root of an entry that is 0 has no gradient
            scales = [k for k in targets if k >= level]
            seen = {k: self.measure.seen(coarser(start, k - level), TAPS if k == level else (DEEPEST,)) for k in scales}
            errors = [self.measure.errors(seen[k], targets[k]) for k in scales]
        shown = errors if told else [scale.none() for scale in errors]
        residual = at_least_float32(self.levels[named(level)](seen[level], shown))
        return Transition(start, seen[level][DEEPEST], residual, torch.tanh(residual + start))

    def first(self, like: Tensor) -> Tensor:
        """What the coarsest level starts from in training, as large as `like`; of noise, this worker's part."""
        if self.config.init == "zeros":
            return torch.zeros_like(like)
        whole = noise(self.config.batch_size, like, self.config.init_std)
        return whole[part_of(self.streams()["content"], self.group.rank, self.group.size)]

    def begun(self) -> tuple[int, ...]:
        """The levels up to the phase's; without a phase, all."""
        levels: tuple[int, ...] = self.config.levels
        return levels[: list(map(named, levels)).index(self.phase) + 1] if self.phase else levels

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`: the mean of their Gram matrices, before the roots.

        Starts from `init_image` at `start_level`, where there is one. Maps, for each level drawn: `level2_start` what
        it started from, `level2_content_error` and `level2_style_error` as heat maps of 1/8 of its size,
        `level2_residual` with mid-grey for 0, `level2_out`. Of an `init_image` also `content_loss` and `style_loss`,
        the terms that the last level is trained on: two numbers each, before and after.
        Raises ValueError for pictures too small, sides that are no multiples, and levels that do not fit together.
        """
        return self.drawn(content, styles, controls, self.config.levels)

    def drawn(
        self, content: Tensor, styles: Sequence[Style], controls: StylizeControls, levels: tuple[int, ...]
    ) -> Picture:
        """`stylize` by some of the levels, the last of which is as large as the picture."""
        self.check_pictures(content, styles, levels)
        targets, passed = self.passed(content, styles, controls, levels)
        maps: dict[str, Tensor] = {}
        for level, transition in passed.items():
            maps |= maps_of(level, transition, *self.measure.maps(transition.features, targets[level]))
        if self.init_image is not None:
            last = list(passed)[-1]
            before = coarser(signed(self.init_image), last - levels[-1])
            maps |= self.refinement(last, before, passed[last].image, targets)
        image = unsigned(list(passed.values())[-1].image)
        while image.shape[-1] < content.shape[-1]:
            image = finer(image)
        return Picture(content.lerp(image, controls.alpha), maps)

    def refinement(self, level: int, before: Tensor, after: Tensor, targets: Mapping[int, Target]) -> dict[str, Tensor]:
        """Both losses of two pictures (1, 3, H, W) in [-1, 1], of a level's size."""
        terms = [self.loss_terms(level, picture, targets) for picture in (before, after)]
        return {name: torch.stack([each[name] for each in terms]) for name in ("content_loss", "style_loss")}

    def passed(
        self, content: Tensor, styles: Sequence[Style], controls: StylizeControls, levels: tuple[int, ...]
    ) -> tuple[dict[int, Target], dict[int, Transition]]:
        """The targets and the transitions of the levels that the controls ask for."""
        start_level, last = self.ends(controls, levels)
        targets = {}
        for k in levels[: levels.index(last) + 1]:
            shrunk = [replace(style, image=coarser(signed(style.image), k - levels[-1])) for style in styles]
            targets[k] = self.measure.target(coarser(signed(content), k - levels[-1]), shrunk)
        if self.init_image is not None:
            image = coarser(signed(self.init_image), start_level - levels[-1])
        else:
            image = self.blank(coarser(content, COARSEST - levels[-1]), controls)
        passed: dict[int, Transition] = {}
        for k in range(start_level, last - 1, -1):
            passed[k] = self.transition(k, image, targets, told=controls.errors)
            image = finer(passed[k].image)
            self.report((start_level - k + 1) / (start_level - last + 1))
        return targets, passed

    def ends(self, controls: StylizeControls, levels: tuple[int, ...]) -> tuple[int, int]:
        """The first and the last level to draw. Raises ValueError where there is no way from one to the other."""
        start, last = controls.start_level, max(controls.output_level, levels[-1])
        if start not in levels:
            raise ValueError(f"start_level: {start} was given, this model has {', '.join(map(str, levels))}")
        if start < last:
            raise ValueError(f"start_level: {start} was given, which is finer than the last level to draw, {last}")
        if start < COARSEST and self.init_image is None:
            raise ValueError(f"start_level: {start} was given without a picture to start from (init_image)")
        return start, last

    def blank(self, like: Tensor, controls: StylizeControls) -> Tensor:
        """What a drawing starts from without a picture, as large as `like`; always the same for a seed."""
        if (controls.init or self.config.init) == "zeros":
            return torch.zeros_like(like)
        return noise(1, like, self.config.init_std, torch.Generator().manual_seed(controls.seed))

    def check_pictures(self, content: Tensor, styles: Sequence[Style], levels: tuple[int, ...]) -> None:
        multiple = multiple_of(levels)
        for name, image in (("content", content), *((f"style {n}", s.image) for n, s in enumerate(styles, start=1))):
            height, width = image.shape[-2:]
            if min(height, width) < 2 * multiple:
                raise ValueError(f"{name}: {width} x {height} px were given, sides must be at least {2 * multiple} px")
            if name == "content" and (height % multiple or width % multiple):
                raise ValueError(f"{name}: {width} x {height} px were given, sides must be multiples of {multiple} px")

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Pairs, their results, and how these came about by the levels trained so far.

        `transition-n-n` has a row for each level: what it started from, content error, style error, residual, what it
        gave; then the same once more by networks that are told of no errors, while the errors shown are the true ones.
        """
        grid = []
        for n, (content, style) in enumerate(zip(batch["content"], batch["style"], strict=True), start=1):
            halves = []
            for errors in (True, False):
                controls = StylizeControls(errors=errors)
                halves.append(self.drawn(content[None], [Style(style[None])], controls, self.begun()))
            told, untold = (sheet(half.maps, self.begun(), content.shape[-2:]) for half in halves)
            assert halves[0].image is not None
            grid += [(f"content-{n}", content), (f"style-{n}", style), (f"result-{n}-{n}", halves[0].image[0])]
            grid.append((f"transition-{n}-{n}", torch.cat([told, untold], dim=-1)))
        return grid

    def onnx_form(self) -> nn.Module | str:
        return "a drawing sees its pictures at every scale through the encoder: PyTorch's exporter spends minutes on it"


def check_levels(config: TrainConfig) -> None:
    """Raise ValueError that names the setting which does not go with `levels`."""
    levels = config.levels
    if not levels or levels != tuple(range(COARSEST, COARSEST - len(levels), -1)):
        raise ValueError(f"levels: {list(levels)} were given, a pyramid is [3], [3, 2] or [3, 2, 1]")
    if len(config.level_steps) not in (0, len(levels)):
        raise ValueError(f"level_steps: {len(config.level_steps)} numbers were given for {len(levels)} levels")
    multiple = multiple_of(levels)
    for name, size in (("content_size", config.content_size), ("style_size", config.style_size)):
        if size % multiple or size < 2 * multiple:
            allowed = f"{len(levels)} levels take multiples of {multiple} from {2 * multiple}"
            raise ValueError(f"{name}: {size} px were given, {allowed}")


def multiple_of(levels: Sequence[int]) -> int:
    """What sides are multiples of, at least two of them: then relu4_1 of the coarsest level has two positions."""
    return STRIDE << (len(levels) - 1)


def named(level: int) -> str:
    return f"level{level}"


def noise(count: int, like: Tensor, std: float, random: torch.Generator | None = None) -> Tensor:
    """`count` pictures of the size of `like`: normal numbers up to 2 std."""
    return truncated_normal_(torch.empty(count, *like.shape[1:]), std, random).to(like)


def maps_of(level: int, transition: Transition, content_error: Tensor, style_error: Tensor) -> dict[str, Tensor]:
    """What a level did, each by its name of SHOWN."""
    start, residual, out = map(unsigned, (transition.start, transition.residual, transition.image))
    shown = (start, content_error, style_error, residual.clamp(0, 1), out)
    return {f"{named(level)}_{part}": picture for part, picture in zip(SHOWN, shown, strict=True)}


def sheet(maps: Mapping[str, Tensor], levels: Sequence[int], size: Sequence[int]) -> Tensor:
    """A row for each level, in the order of SHOWN, all cells of `size`: (3, rows * H, columns * W)."""
    height, width = size
    rows = [[interpolate(maps[f"{named(k)}_{part}"], size=(height, width)) for part in SHOWN] for k in levels]
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)[0]


METHOD = Method(
    slug="etnet",
    title="Error Transition Network",
    paper="arXiv:1910.12056",
    tasks={"train": Train},
)
