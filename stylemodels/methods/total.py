"""Total Style Transfer with a Single Feed-Forward Network, Kim & Choi 2018 (journal: Sensors 22(12):4612, 2022).

A fixed encoder gives features at three scales, which take the style's mean and covariance; one decoder paints them:

    SST(F_c, F_s) = cov(F_s)^(1/2) cov(F_c)^(-1/2) (F_c - mean_c) + mean_s
    intra-scale: SST of each scale for itself;  inter-scale: SST of F', the concatenation of all scales
    L_intra = sum_i |mean_s,i - mean_o,i| + sum_i |cov(F_s,i) - cov(F_o,i)|          of the output o, equation 5
    L_inter = |mean'_s - mean'_o| + |cov(F'_s) - cov(F'_o)|                          equation 6
    L = content_weight |F_o - F_c|^2 + style_weight (L_intra, L_inter or both)

Neither the whole of F' nor a gradient of a matrix root is ever needed (`scales.py`); only the decoder learns. The text
of the paper leaves open how scales are brought to one size, its weights, and the kind of skip: those defaults are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels import tiles
from stylemodels.distributed import part_of
from stylemodels.encoders import EncoderName, stand_in
from stylemodels.features import at_least_float32
from stylemodels.losses import content_loss, tv_loss
from stylemodels.matrix_roots import Roots, by_eigenvalues, by_products
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.mixing import mixed
from stylemodels.phases import Stretch
from stylemodels.raster import Loaded, Raster
from stylemodels.scale_tiles import level_of_scales, packed, style_at, tiled_statistics, unpacked
from stylemodels.scales import JointMap, JointMoments, Mode, Resample, Scales, Statistics, groups, joint_statistics
from stylemodels.settings import Common, setting
from stylemodels.skip_decoder import Skip, SkipDecoder
from stylemodels.temporal import TemporalAverage, TemporalControls
from stylemodels.tiles import Place

Tap = Literal["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
Norm = Literal["fro", "mse"]

TAPS: tuple[Tap, ...] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `total/train`; of the defaults, the ones that no readable source of the paper fixes are ours."""

    steps: int = setting(80_000, "training steps of the phase train", ge=1, le=1_000_000)
    autoencoder_warmup: int = setting(0, "steps before it, in which photos are given back", ge=0, le=1_000_000)
    taps: tuple[Tap, ...] = setting(TAPS[:3], "scales, fine to coarse; relu4_3 as a fourth is optional")
    transform: Mode = setting("inter", "intra: each scale takes its own statistics; inter: all of them jointly")
    style_loss: Literal["intra", "inter", "both"] = setting("inter", "equation 5, equation 6, or a mixture of both")
    style_beta: float = setting(0.5, "share of equation 5 with style_loss both", ge=0, le=1)
    style_norm: Norm = setting("fro", "fro: norms as published, not squared; mse: means of squares")
    resample: Resample = setting("nearest_avg", "how scales are brought to one size, and back")
    skip: Skip = setting("add", "how the finer scales enter the decoder")
    skip_dropout: float = setting(0.0, "share of finer scales that the decoder sees only the means of", ge=0, le=0.5)
    whiten_eps: float = setting(1e-5, "floor under the content's eigenvalues, relative to the largest", gt=0, le=0.1)
    normalise_taps: bool = setting(True, "losses divide each tap by its root mean square over the first photos")
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float | None = setting(
        None, "weight of the style term; null: 6.4 / channels of the coarsest scale", ge=0
    )
    tv_weight: float = setting(0.0, "weight of the total variation", ge=0)
    load_size: int = setting(256, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(240, "side of the content crop, pixels", ge=32, le=1024, multiple_of=4)
    style_size: int = setting(240, "side of the style crop, pixels", ge=32, le=1024, multiple_of=4)
    batch_size: int = setting(4, "content-style pairs per step, over all workers", ge=1, le=64)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    encoder: EncoderName = setting("vgg16", "the fixed encoder, which also measures the loss")


@dataclass(frozen=True, kw_only=True)
class StylizeControls(TemporalControls):
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 decodes the content's own features, 1 takes the style, at all scales", ge=0, le=1)
    scale_alphas: tuple[float, ...] = setting(
        (), "alpha is multiplied with these, fine to coarse, one for each scale; none: 1 everywhere", ge=0, le=1
    )
    transform: Literal["trained", "intra", "inter"] = setting(
        "trained", "intra or inter, whatever the decoder was trained with"
    )


def sst(content: Statistics, style: Statistics, eps: float, roots: Roots = by_eigenvalues) -> JointMap:
    """The style transform as a map of content features, float64: their mean and covariance become the style's.

    eps: floor under the content's eigenvalues, relative to the largest; the style's have none.
    """
    matrix = roots(content.covariance, style.covariance, eps)
    return JointMap(matrix, style.mean.double() - (matrix @ content.mean.double()[..., None])[..., 0])


def style_distance(output: Sequence[Statistics], style: Sequence[Statistics], norm: Norm) -> Tensor:
    """Equation 5 of statistics of each scale, equation 6 of those of all jointly: a scalar, the mean over the batch."""
    pairs = [pair for own, target in zip(output, style, strict=True) for pair in zip(own, target, strict=True)]
    return torch.stack([length(own - target, norm) for own, target in pairs]).sum()


def length(differences: Tensor, norm: Norm) -> Tensor:
    """fro: the norm of each picture's differences (N, ...), not squared, in the mean; mse: the mean of all squares."""
    if norm == "mse":
        return differences.square().mean()
    return (differences.square().flatten(1).sum(1) + 1e-12).sqrt().mean()


class Painted(NamedTuple):
    """How to draw in one style: the map of each group of scales that are transformed together."""

    style: Style
    maps: list[JointMap]


class Train(Task):
    """Trains the decoder. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    stretches = (
        Stretch("autoencoder", ("autoencoder_warmup",), unless_zero="autoencoder_warmup"),
        Stretch("train"),
    )
    model_parts = ("decoder",)
    bytes_per_px = 1500  # all scales at once
    styles = (1, 8)
    masks = True
    multiple = 8
    strength = "alpha"

    tap_rms: Tensor

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        if config.taps not in (TAPS[:3], TAPS):
            raise ValueError(f"taps: {list(config.taps)} were given, allowed are {list(TAPS[:3])} and {list(TAPS)}")
        if config.taps == TAPS and config.content_size % 8:
            raise ValueError(f"content_size: {config.content_size} was given, with relu4_3 it must be a multiple of 8")
        self.config, self.encoder = config, given.encoder
        self.taps = [stand_in(self.encoder.name, tap, "style") for tap in config.taps]
        self.widths = [self.encoder.channels[tap] for tap in self.taps]
        self.decoder = SkipDecoder(self.widths, config.skip)
        self.register_buffer("tap_rms", torch.ones(len(self.taps)))
        style_weight = 6.4 / self.widths[-1] if config.style_weight is None else config.style_weight
        self.weights = {"pixel": 1.0, "content": config.content_weight, "style": style_weight, "tv": config.tv_weight}
        self.temporal = TemporalAverage()

    def streams(self) -> dict[str, Stream]:
        return {"content": self._pairs()["content"]} if self.phase == "autoencoder" else self._pairs()

    def preview_streams(self) -> dict[str, Stream]:
        return {name: replace(stream, count=min(stream.count, 4)) for name, stream in self._pairs().items()}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"decoder": Adam(self.decoder.parameters(), lr=self.config.lr)}

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        if self.config.normalise_taps:
            squares = [features.square().mean() for features in self.encode(batch["content"])]
            self.tap_rms.copy_(torch.stack(squares).sqrt().clamp_min(1e-6))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Besides the weighted terms, content and style term as they are: the balance of the two is worth a look."""
        distances = self.distances(batch)
        terms = self.weighted(distances)
        self.update(self.gradients(torch.stack(list(terms.values())).sum()))
        return terms | {f"{name}_distance": distances[name] for name in ("content", "style") if name in distances}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        return self.weighted(self.distances(batch))

    def weighted(self, distances: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{name}_loss": self.weights[name] * value for name, value in distances.items()}

    def distances(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the phase without their weights."""
        with torch.no_grad():
            own = self.encode(batch["content"])
        if self.phase == "autoencoder":
            output = self.decoder(own)
            found = self.encode(output)
            return {"pixel": content_loss(output, batch["content"]), "content": self.content_distance(found, own)}
        if len(batch["style"]) != len(batch["content"]):
            raise ValueError(f"batch: {len(batch['content'])} contents and {len(batch['style'])} styles make no pairs")
        with torch.no_grad():
            painted = self.encode(batch["style"])
            statistics = {mode: self.statistics(painted, mode) for mode in self._modes()}
            maps = self.maps(self.statistics(own, self.config.transform), statistics[self.config.transform])
            changed = self.dropped(self.transformed(own, maps))
        output = self.decoder(changed)
        found = self.encode(output)
        terms = {
            "content": self.content_distance(found, own),
            "style": torch.stack(
                [share * self.style_distance(found, statistics[mode], mode) for mode, share in self._shares().items()]
            ).sum(),
        }
        return terms | ({"tv": tv_loss(output)} if self.config.tv_weight > 0 else {})

    def content_distance(self, output: Scales, content: Scales) -> Tensor:
        """Mean squared difference at the coarsest scale, of features divided by the tap's root mean square."""
        return content_loss(output[-1], content[-1]) / self.tap_rms[-1] ** 2

    def style_distance(self, output: Scales, target: Sequence[Statistics], mode: Mode) -> Tensor:
        """Equation 5 (intra) or 6 (inter) between features and a style's statistics, gradients and all."""
        places = groups(range(len(output)), mode)
        resample = self.config.resample
        pairs = []
        for group, statistics, members in zip(groups(output, mode), target, places, strict=True):
            own = joint_statistics(group, resample if mode == "inter" else "nearest_avg")
            factors = torch.cat([self.tap_rms[n].reciprocal().expand(self.widths[n]) for n in members])
            pairs.append((own.scaled(factors), statistics.to(own.mean).scaled(factors)))
        owns, targets = zip(*pairs, strict=True)
        return style_distance(owns, targets, self.config.style_norm)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features of all scales, fine to coarse, float32 at least; what does not fill a coarsest cell has none."""
        cell = 1 << (len(self.taps) - 1)
        height, width = (side // cell * cell for side in images.shape[-2:])
        features = self.encoder(images[..., :height, :width], self.taps)
        return [at_least_float32(features[tap]) for tap in self.taps]

    @torch.no_grad()
    def statistics(self, scales: Scales, mode: Mode) -> list[Statistics]:
        """Of each group, float64."""
        if mode == "inter" and self.config.resample == "bilinear_avg":
            return [joint_statistics(scales, "bilinear_avg", sums=torch.float64)]
        return [JointMoments.of(group).statistics for group in groups(scales, mode)]

    def maps(self, own: Sequence[Statistics], style: Sequence[Statistics]) -> list[JointMap]:
        """The style transform of each group."""
        return [sst(c, s, self.config.whiten_eps) for c, s in zip(own, style, strict=True)]

    def transformed(self, scales: Scales, maps: Sequence[JointMap]) -> list[Tensor]:
        """The multi-scaled transformer: features of the same shapes."""
        grouped = groups(scales, "inter" if len(maps) == 1 else "intra")
        return [one for group, change in zip(grouped, maps, strict=True) for one in change(group, self.config.resample)]

    def dropped(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """In a share of all cases a finer scale's positions are replaced by their mean.

        Drawn for the whole batch by every worker alike, so that several do what one does.
        """
        if self.config.skip_dropout == 0:
            return list(scales)
        draws = torch.rand(len(scales) - 1, self.config.batch_size)
        mine = draws[:, part_of(self.streams()["content"], self.group.rank, self.group.size)]
        away = (mine < self.config.skip_dropout).to(scales[0].device)[..., None, None, None]
        finer = [torch.where(off, f.mean((2, 3), keepdim=True), f) for off, f in zip(away, scales[:-1], strict=True)]
        return [*finer, scales[-1]]

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 8 px (16 with four scales)."""
        mode, own = self.mode(controls), self.encode(content)
        painted = self.painted(self.statistics(own, mode), styles, self._of_styles(styles, mode))
        return Picture(self.decoder(self.changed(own, painted, controls)))

    @torch.inference_mode()
    def stylize_video(
        self, frames: Iterator[Tensor], styles: Sequence[Style], controls: StylizeControls
    ) -> Iterator[Picture]:
        """Frame by frame; styles are read once. Raises ValueError when there is no frame."""
        mode = self.mode(controls)
        of_styles = self._of_styles(styles, mode)
        with self.temporal.of_one_video(frames, controls) as all_frames:
            for frame in all_frames:
                own = self.encode(frame)
                numbers = self.temporal.follow(frame, [*chain(*self.statistics(own, mode))], controls)
                statistics = [Statistics(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
                painted = self.painted(statistics, styles, of_styles)
                yield Picture(self.decoder(self.changed(own, painted, controls)))

    def video_state(self) -> dict[str, Tensor]:
        return self.temporal.state()

    def load_video_state(self, state: Mapping[str, Tensor]) -> None:
        self.temporal.restore(state, next(self.decoder.parameters()).device)

    @torch.inference_mode()
    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: StylizeControls, *, tile: int
    ) -> None:
        mode, device = self.mode(controls), next(self.decoder.parameters()).device
        if mode == "inter" and self.config.resample == "bilinear_avg":
            raise ValueError(
                "tile: this model up-samples bilinearly (resample), for which the statistics of all scales need the "
                "whole picture: choose a smaller size, or transform intra"
            )
        level = level_of_scales(lambda images: self.encode(images.to(device)), self.decoder, self.widths)
        measure = partial(tiled_statistics, level=level, widths=self.widths, mode=mode, tile=tile)
        own = measure(source, report=lambda share: self.report(0.4 * share))
        painted = self.painted(own, styles, [measure(Loaded(style.image)) for style in styles])

        def change(values: Tensor, place: Place) -> Tensor:
            here = [one._replace(style=style_at(one.style, place.scaled(level.cell))) for one in painted]
            return packed(self.changed(unpacked(values, self.widths), here, controls))

        tiles.draw(source, target, level, change, tile=tile, report=lambda share: self.report(0.4 + 0.6 * share))

    def painted(
        self, own: Sequence[Statistics], styles: Sequence[Style], of_styles: Sequence[Sequence[Statistics]]
    ) -> list[Painted]:
        """How content with the statistics `own` is drawn in each style."""
        return [Painted(style, self.maps(own, its)) for style, its in zip(styles, of_styles, strict=True)]

    def changed(self, scales: Scales, painted: Sequence[Painted], controls: StylizeControls) -> list[Tensor]:
        """What is decoded: at each scale the mixture of styles, as strong as that scale is told to be."""
        styles = [one.style for one in painted]
        each = [self.transformed(scales, one.maps) for one in painted]
        mixtures = [mixed(parts, styles) for parts in zip(*each, strict=True)]
        alphas = self.alphas(controls)
        return [own.lerp(mixture, alpha) for own, mixture, alpha in zip(scales, mixtures, alphas, strict=True)]

    def alphas(self, controls: StylizeControls) -> list[float]:
        """The strength of each scale. Raises ValueError for another number of them than there are scales."""
        factors, count = controls.scale_alphas, len(self.taps)
        if factors and len(factors) != count:
            raise ValueError(f"scale_alphas: {len(factors)} were given, this model has {count} scales")
        return [controls.alpha * factor for factor in factors or (1.0,) * count]

    def mode(self, controls: StylizeControls) -> Mode:
        trained: Mode = self.config.transform
        return trained if controls.transform == "trained" else controls.transform

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The usual grid, and what each scale alone contributes to the first pair's picture."""
        grid = super().preview(batch)
        content, style = batch["content"][:1], Style(batch["style"][:1])
        for place, tap in enumerate(self.taps):
            only = tuple(float(n == place) for n in range(len(self.taps)))
            picture = self.stylize(content, [style], StylizeControls(scale_alphas=only)).image
            assert picture is not None
            grid.append((f"result-1-1-{tap}", picture[0]))
        return grid

    def model_facts(self) -> dict[str, Any]:
        return {"taps": {"content": self.taps[-1], "style": self.taps}, "tap_rms": self.tap_rms.tolist()}

    def onnx_form(self) -> nn.Module | str:
        return TotalForm(self)

    def _pairs(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)
        return {"content": photos, "style": replace(photos, dataset="style", size=c.style_size)}

    def _shares(self) -> dict[Mode, float]:
        """How much of the style term is equation 5 (intra) and 6 (inter)."""
        c = self.config
        return {"intra": c.style_beta, "inter": 1 - c.style_beta} if c.style_loss == "both" else {c.style_loss: 1.0}

    def _modes(self) -> set[Mode]:
        """Whose statistics of the style a step needs: computed once for transform and loss."""
        return {self.config.transform, *self._shares()}

    def _of_styles(self, styles: Sequence[Style], mode: Mode) -> list[list[Statistics]]:
        return [self.statistics(self.encode(style.image), mode) for style in styles]


class TotalForm(nn.Module):
    """content, style -> picture at the default controls, with matrix roots by products: ONNX has no eigenvalues."""

    def __init__(self, task: Train) -> None:
        super().__init__()
        self.task = task

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        task, c = self.task, self.task.config
        own, painted = (list(task.encoder(image, task.taps).values()) for image in (content, style))
        maps = []
        for pair in zip(groups(own, c.transform), groups(painted, c.transform), strict=True):
            resample: Resample = c.resample if c.transform == "inter" else "nearest_avg"
            statistics = [joint_statistics(group, resample, sums=torch.float64) for group in pair]
            maps.append(sst(statistics[0], statistics[1], c.whiten_eps, by_products))
        image: Tensor = task.decoder(task.transformed(own, maps))
        return image


METHOD = Method(
    slug="total",
    title="Total Style Transfer",
    paper="doi:10.3390/s22124612",
    tasks={"train": Train},
)
