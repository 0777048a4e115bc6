"""A Flexible Convolutional Solver for Fast Style Transfers, Puy & Perez 2019 (CVPR; earlier arXiv:1806.05285).

The gradient descent of Gatys et al.'s style transfer, unrolled for T steps, with small networks in place of the
encoder (f) and of its back-propagation (b). The style comes in at run time only, as filters:

    X_0 = X_c,   X_{t+1} = X_t - mu g_t(X_t, X_s)
    g(X, X_s) = sum_l lambda_l b_l( f_l(X) G_l^T Gram_l H_l ),   Gram_l = S_l^T S_l / n'_l        equation 10
    L = content_weight L_c + sum_l lambda_l / c_l^2 |F_l^T F_l / n_l - Gram_l|^2              of X_T, in training

F and S are features of a frozen encoder over kappa, their root mean square. As every step (`unrolled.py`) is a gradient
step, terms can be added to L when the network is finished: mixtures and regions (`style_filters.py`), photo-realism and
calm videos (`proximal.py`). The layers, T, kappa and the weights are ours: no readable source has the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam, Optimizer

from stylemodels.distributed import part_of
from stylemodels.encoders import EncoderName, stand_in
from stylemodels.losses import content_loss
from stylemodels.maps import curve
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.proximal import AddedTerms, Previous, TermControls, VideoMemory
from stylemodels.settings import Common, setting
from stylemodels.style_filters import Features, FilterNorm, Weighted, filters_at, mean_gram, normed, read
from stylemodels.unrolled import BMode, Filters, Solver

Tap = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
LEAST_STYLE_PX = 32


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `solver/train`; the defaults are the reproduction's, the paper's cannot be read anywhere."""

    steps: int = setting(80_000, "training steps", ge=1)
    batch_size: int = setting(4, "content-style pairs per step, over all workers", ge=1)
    load_size: int = setting(288, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, multiple_of=16)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, multiple_of=16)
    photo_style_fraction: float = setting(0.5, "share of pairs whose style is a photo of the content set", ge=0, le=1)
    lr: float = setting(1e-3, "Adam's learning rate", gt=0)
    lr_final: float = setting(1e-4, "Adam's learning rate at the end; a cosine leads there", ge=0)
    grad_clip: float | None = setting(1.0, "longest gradient, over all parameters; null = off", gt=0)
    n_steps: int = setting(2, "T, unrolled steps", ge=1, le=10)
    share_steps: bool = setting(False, "one g for all steps instead of one for each")
    style_layers: tuple[Tap, ...] = setting(TAPS[:4], "taps whose Gram matrices are the style: relu1_1, relu2_1, ...")
    content_layers: tuple[Tap, ...] = setting(("relu4_1",), "taps of the content term")
    widths: tuple[int, ...] = setting((32, 64, 128, 128), "d, channels of f at each style tap", ge=8)
    b_mode: BMode = setting(
        "adjoint", "b: linear maps behind f's own gates, one network with all taps added, or a network for each tap"
    )
    filter_norm: FilterNorm = setting(
        "sqrt", "none: literal; sqrt, trace: how much of a style's magnitude is taken off its Gram matrices"
    )
    content_weight: float = setting(1.0, "of the content term", ge=0)
    style_weight: float = setting(0.3, "lambda_l is this times c_l, its channels", ge=0)
    style_layer_weights: tuple[float, ...] = setting((1.0, 1.0, 1.0, 1.0), "factors of lambda_l, one a tap", ge=0)
    tv_weight: float = setting(0.01, "of the total variation: means of absolute differences", ge=0)
    deep_supervision: float = setting(0.5, "weight of the loss of the pictures before the last", ge=0, le=1)
    encoder: EncoderName = setting("vgg19", "the frozen encoder: Gram matrices of styles, and the loss")


@dataclass(frozen=True, kw_only=True)
class StylizeControls(TermControls):
    """What a finished model can be told."""

    mu: float = setting(1.0, "length of the steps: 0 keeps the content, 1 is as trained", ge=0, le=1.5)
    lambda_scales: tuple[float, ...] = setting(
        (), "strength of each tap, finest first, for all steps or step by step; empty: 1", ge=0, le=3
    )
    stop_after: int = setting(0, "steps to take; 0: all", ge=0, le=10)
    feather: int = setting(8, "over how many pixels masks and label maps are softened", ge=0, le=256)


class Kappa(nn.Module):
    """Root mean squares of the encoder's taps: features are divided by them, in the filters and in the loss."""

    rms: Tensor

    def __init__(self, taps: Sequence[str]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.register_buffer("rms", torch.ones(len(taps)))

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {tap: values / self.rms[self.taps.index(tap)] for tap, values in features.items()}


class Train(Task):
    """Trains all g_t together, through all steps. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    model_parts = ("solver", "kappa")
    strength = "mu"
    styles = (1, 8)
    masks = True
    regions = True

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        check(config)
        self.config, self.encoder = config, given.encoder
        self.style_taps = [stand_in(self.encoder.name, tap, "style") for tap in config.style_layers]
        self.content_taps = [stand_in(self.encoder.name, tap, "content") for tap in config.content_layers]
        self.channels = [self.encoder.channels[tap] for tap in self.style_taps]
        self.kappa = Kappa(list(dict.fromkeys([*self.style_taps, *self.content_taps])))
        self.solver = Solver(
            self.channels, config.widths, steps=config.n_steps, share=config.share_steps, b_mode=config.b_mode
        )
        self.memory = VideoMemory()

    def streams(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size, augment="flip")
        streams = {"content": photos, "style": replace(photos, dataset="style", size=c.style_size)}
        if c.photo_style_fraction > 0:
            streams["photo_style"] = replace(photos, size=c.style_size)
        return streams

    def calibrate(self, batch: Batch) -> None:
        """kappa, from all pictures of the first batch."""
        taps = self.kappa.taps
        with torch.no_grad():
            seen = [self.encoder(pictures, taps) for pictures in batch.values()]
        squares = [torch.stack([features[tap].square().mean() for tap in taps]) for features in seen]
        self.kappa.rms.copy_(torch.stack(squares).mean(0).sqrt().clamp_min(1e-6))

    def optimizers(self) -> dict[str, Optimizer]:
        return {"solver": Adam(self.solver.parameters(), lr=self.config.lr)}

    def lr_scale(self, name: str) -> float:
        c = self.config
        final: float = c.lr_final / c.lr
        return final + (1 - final) * (1 + cos(pi * self.step / c.steps)) / 2

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """L_s is quadratic in Gram entries, so its gradients have heavy tails: they are clipped."""
        terms: dict[str, Tensor] = self(batch)
        norm = self.update(self.gradients(torch.stack(list(terms.values())).sum()), clip_norm=self.config.grad_clip)
        return terms | {"gradient_norm": norm}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        c = self.config
        content = batch["content"]
        with torch.no_grad():
            own, grams = self.features(content, self.content_taps), self.grams(self.styles_of(batch))
        pictures = list(self.solver(content, whole(grams, c.filter_norm)))
        if c.deep_supervision == 0:
            pictures = pictures[-1:]
        seen = self.features(torch.cat(pictures), self.kappa.taps)
        terms = [
            self.energies({tap: values.chunk(len(pictures))[n] for tap, values in seen.items()}, own, grams)
            for n in range(len(pictures))
        ]
        early = [torch.stack(list(energies.values())).sum() for energies in terms[:-1]]
        early_loss = {"early_loss": c.deep_supervision * torch.stack(early).sum()} if early else {}
        return terms[-1] | {"tv_loss": c.tv_weight * absolute_variation(pictures[-1])} | early_loss

    def energies(self, seen: Features, own: Features, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted L_c and L_s of pictures in which the encoder sees `seen`; over kappa, as `own` and `grams`."""
        c = self.config
        content = torch.stack([content_loss(seen[tap], own[tap]) for tap in self.content_taps]).sum()
        parts = [
            # lambda / c^2 times a sum over c^2 entries is lambda times their mean
            weight * channels * mse_loss(mean_gram(seen[tap]), grams[tap])
            for tap, channels, weight in zip(self.style_taps, self.channels, c.style_layer_weights, strict=True)
        ]
        return {"content_loss": c.content_weight * content, "style_loss": c.style_weight * torch.stack(parts).sum()}

    def styles_of(self, batch: Batch) -> Tensor:
        """The style pictures of the batch's pairs: paintings, and photos as often as `photo_style_fraction` says."""
        paintings = batch["style"]
        if "photo_style" not in batch:
            return paintings
        mine = part_of(self.streams()["style"], self.group.rank, self.group.size)
        first, share = self.step * self.config.batch_size + mine.start, self.config.photo_style_fraction
        are_photos = [int((n + 1) * share) > int(n * share) for n in range(first, first + len(paintings))]
        chosen = torch.tensor(are_photos, device=paintings.device)[:, None, None, None]
        return torch.where(chosen, batch["photo_style"], paintings)

    def features(self, images: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """What the encoder sees, over kappa."""
        return self.kappa(self.encoder(images, taps))  # type: ignore[no-any-return]

    def grams(self, images: Tensor) -> dict[str, Tensor]:
        return {tap: mean_gram(values) for tap, values in self.features(images, self.style_taps).items()}

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 32 px; maps: after every step.

        Raises ValueError for smaller styles, and for controls that the model cannot follow.
        """
        return self.drawn(content, self.filters(styles, content, controls), controls, None)

    @torch.inference_mode()
    def stylize_video(
        self, frames: Iterator[Tensor], styles: Sequence[Style], controls: StylizeControls
    ) -> Iterator[Picture]:
        """Frame by frame; styles are read once. With video_lambda each frame is drawn towards the one before."""
        calm = controls.video_lambda > 0
        filters: Filters = []
        with self.memory.of_one_video() if calm else nullcontext():
            for frame in frames:
                filters = filters or self.filters(styles, frame, controls)
                picture = self.drawn(frame, filters, controls, self.memory.previous)
                if calm and picture.image is not None:
                    self.memory.keep(frame, picture.image)
                yield picture

    def video_state(self) -> dict[str, Tensor]:
        return self.memory.state()

    def load_video_state(self, state: Mapping[str, Tensor]) -> None:
        self.memory.restore(state, self.kappa.rms.device)

    def drawn(self, content: Tensor, filters: Filters, controls: StylizeControls, previous: Previous | None) -> Picture:
        """previous: of a video, the frame before and its picture."""
        scales = self.scales(controls)
        settled = AddedTerms(content, controls, previous)
        pictures = []
        for picture in self.solver(content, filters, scales, controls.mu, settled):
            pictures.append(picture)
            self.report(len(pictures) / len(scales))
        return Picture(pictures[-1], {f"step-{n}": each.clamp(0, 1) for n, each in enumerate(pictures, start=1)})

    def filters(self, styles: Sequence[Style], content: Tensor, controls: StylizeControls) -> Filters:
        """What the styles are to a content of this size. Raises ValueError for a style that is too small."""
        if (least := min(min(style.image.shape[-2:]) for style in styles)) < LEAST_STYLE_PX:
            raise ValueError(f"styles: a side of {least} px was given, it must be at least {LEAST_STYLE_PX} px")
        painted = [
            read(style, self.features(style.image, self.style_taps), self.config.filter_norm) for style in styles
        ]
        sizes = [[side >> level for side in content.shape[-2:]] for level in range(len(self.style_taps))]
        return [
            filters_at(painted, tap, size, feather=controls.feather)
            for tap, size in zip(self.style_taps, sizes, strict=True)
        ]

    def scales(self, controls: StylizeControls) -> list[list[float]]:
        """lambda of each step that is taken, and each tap. Raises ValueError for as many numbers as fit nothing."""
        taps, steps = len(self.style_taps), self.config.n_steps
        given = list(controls.lambda_scales or [1.0] * taps)
        if len(given) not in (taps, taps * steps):
            raise ValueError(f"lambda_scales: {len(given)} were given, the model takes {taps}, or {taps * steps}")
        if controls.stop_after > steps:
            raise ValueError(f"stop_after: {controls.stop_after} was given, the model has {steps} steps")
        all_steps = given * steps if len(given) == taps else given
        return [all_steps[taps * n : taps * (n + 1)] for n in range(controls.stop_after or steps)]

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The grid, the first pair after every step, and how the energies of all pairs fall from X_0 to X_T."""
        content, style = batch["content"], batch["style"]
        pairs = min(len(content), len(style))
        content, own = content[:pairs], self.features(content[:pairs], self.content_taps)
        grams = self.grams(style[:pairs])
        pictures = [content, *self.solver(content, whole(grams, self.config.filter_norm))]
        energies = [self.energies(self.features(each, self.kappa.taps), own, grams) for each in pictures]
        steps = [(f"step-{n}-1-1", each[0]) for n, each in enumerate(pictures[1:], start=1)]
        falling = curve(torch.stack([torch.stack(list(each.values())).sum() for each in energies]))
        return [*super().preview(batch), *steps, ("energy", falling[0].expand(3, -1, -1))]

    def onnx_form(self) -> nn.Module:
        return SolverForm(self)


class SolverForm(nn.Module):
    """content, style -> X_T, at the default controls."""

    def __init__(self, task: Train) -> None:
        super().__init__()
        self.encoder, self.kappa, self.solver = task.encoder, task.kappa, task.solver
        self.taps, self.filter_norm = task.style_taps, task.config.filter_norm

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        features = self.kappa(self.encoder(style, self.taps))
        grams = {tap: mean_gram(values) for tap, values in features.items()}
        pictures: list[Tensor] = list(self.solver(content, whole(grams, self.filter_norm)))
        return pictures[-1]


def check(config: TrainConfig) -> None:
    """Raise ValueError for settings that do not go together."""
    taps = config.style_layers
    if not taps or taps != TAPS[: len(taps)]:
        raise ValueError(f"style_layers: {', '.join(taps) or 'none'} were given, they must be relu1_1, relu2_1, ...")
    if not config.content_layers:
        raise ValueError("content_layers: none was given; a content_weight of 0 switches the term off")
    for name in ("widths", "style_layer_weights"):
        if (count := len(getattr(config, name))) != len(taps):
            raise ValueError(f"{name}: {count} were given, one for each of {len(taps)} style_layers is needed")


def whole(grams: Mapping[str, Tensor], form: FilterNorm) -> Filters:
    """One style each, everywhere: Gram matrices (N, c, c) by tap, finest first, as filters."""
    return [[Weighted(normed(gram, form), 1.0)] for gram in grams.values()]


def absolute_variation(images: Tensor) -> Tensor:
    """Mean absolute differences of neighbouring pixels, across and down, a scalar."""
    return images.diff(dim=3).abs().mean() + images.diff(dim=2).abs().mean()


METHOD = Method(
    slug="solver",
    title="Flexible Convolutional Solver",
    paper="arXiv:1806.05285",
    tasks={"train": Train},
)
