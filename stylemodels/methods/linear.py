"""Learning Linear Transformations for Fast Image and Video Style Transfer, Li et al. 2019 (arXiv:1808.04537).

Between a fixed encoder and a decoder that only reconstructs, one learned module predicts a linear map of the features:

    T = snet(F_s - mean_s) cnet(F_c - mean_c)                        m x m each, from second moments of their outputs
    F = unzip(T compress(F_c - mean_c)) + mean_s                     one affine map A F_c + b, the same at every place
    L = content_weight |F_t - F_c|^2 + style_weight sum_l (|mean_t - mean_s|^2 + |G_t - G_s|^2)        of the picture

`train` learns the decoder (phase `decoder`), then the module (`transform`). `train-filter` adds the spatial propagation
network that takes the auto-encoder's distortions out of photographs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam, Optimizer

from stylemodels import tiles
from stylemodels.blocks import MirroredDecoder
from stylemodels.cascade import changed
from stylemodels.encoders import EncoderName
from stylemodels.features import at_least_float32, gram
from stylemodels.losses import content_loss
from stylemodels.method import Batch, Given, Method, Needs, Phase, Picture, Stream, Style, Task, load_exactly
from stylemodels.mixing import mixed
from stylemodels.phases import Stretch
from stylemodels.propagation import Guide, PropagationNetwork, guide_of
from stylemodels.raster import Loaded, Raster
from stylemodels.settings import Common, setting
from stylemodels.smoothing import smoothed
from stylemodels.temporal import TemporalAverage, TemporalControls
from stylemodels.transformation import Side, Transform, side, tiled_side

Layer = Literal["r31", "r41"]
Tap = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
BLOCKS: Mapping[Layer, int] = {"r31": 3, "r41": 4}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `linear/train`; the defaults are the published ones."""

    steps: int = setting(100_000, "training steps of the phase transform", ge=1, le=1_000_000)
    decoder_steps: int | None = setting(
        None, "steps of the phase decoder; null: as many as steps, none with a base model", ge=0, le=1_000_000
    )
    layer: Layer = setting(
        "r41", "where features are taken: r31 distorts less (video), r41 is stronger", from_base=True
    )
    matrix_size: int = setting(32, "m, rows of T; at most the channels at the layer", ge=4, le=512)
    content_layers: tuple[Tap, ...] = setting(("relu4_1",), "taps of the content term")
    style_layers: tuple[Tap, ...] = setting(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1"), "taps of the style term: fewer and deeper make broader strokes"
    )
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(0.02, "weight of the style term's sum over its taps", ge=0)
    gram_reduction: Literal["sum", "mean"] = setting("sum", "of squared differences of means and Gram matrices")
    lambda_pixel: float = setting(1.0, "phase decoder: weight of the pixels' difference", ge=0)
    lambda_perc: float = setting(1.0, "phase decoder: weight of the features' difference, up to the layer", ge=0)
    load_size: int = setting(300, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=8)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, le=1024, multiple_of=8)
    batch_size: int = setting(8, "content-style pairs per step, over all workers", ge=1, le=64)
    lr: float = setting(1e-4, "Adam's learning rate, in both phases", gt=0)
    lr_decay: float = setting(1e-5, "the rate is lr / (1 + lr_decay * step), in each phase", ge=0)
    encoder: EncoderName = setting(
        "vgg19-normalised", "the fixed encoder, which also measures the loss", from_base=True
    )


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Common):
    """Settings of `linear/train-filter`. The defaults are the published ones, but for the guide."""

    steps: int = setting(100_000, "training steps", ge=1, le=1_000_000)
    guide: Guide = setting("whitened", "what the filter sees; published training shows it the plain photo")
    load_size: int = setting(300, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the crop, pixels", ge=32, le=1024, multiple_of=8)
    batch_size: int = setting(8, "photos per step, over all workers", ge=1, le=64)
    lr: float = setting(1e-3, "Adam's learning rate", gt=0)
    lr_decay: float = setting(1e-5, "the rate is lr / (1 + lr_decay * step)", ge=0)
    layer: Layer = setting("r41", "the base model's", from_base=True)
    matrix_size: int = setting(32, "the base model's", ge=4, le=512, from_base=True)
    encoder: EncoderName = setting("vgg19-normalised", "the base model's", from_base=True)


@dataclass(frozen=True, kw_only=True)
class StylizeControls(TemporalControls):
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 decodes the content's own features, 1 takes the style", ge=0, le=1)
    min_cells: int = setting(10, "regions of fewer positions in either feature map are drawn as if unlabelled", ge=2)


@dataclass(frozen=True, kw_only=True)
class PhotoControls(StylizeControls):
    """What a model with a filter can be told."""

    mode: Literal["image", "photo"] = setting("photo", "image: as without the filter; photo: filtered and smoothed")
    spn: bool = setting(True, "photo: filter by the propagation network; false: smooth only")
    guide: Guide = setting("whitened", "photo: what the filter sees beside the picture; as in training is best")
    smooth_radius: int = setting(15, "photo: radius of the smoothing, pixels; 0 = off", ge=0, le=100)
    smooth_edge: float = setting(0.1, "photo: colour difference across which smoothing stops", gt=0)
    smooth_ridge: float = setting(1e-3, "photo: what holds local colour maps back where the photo is flat", gt=0)


def style_term(output: Tensor, style: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """One tap's term: squared differences of channel means and of Gram matrices (not centred, over C*H*W).

    output, style: (N, C, H, W), any two sizes. "sum", as published: over channels and entries, mean over the batch.
    """
    pairs = [
        (at_least_float32(output).mean((2, 3)), at_least_float32(style).mean((2, 3))),
        (gram(output), gram(style)),
    ]
    total = torch.stack([mse_loss(own, target, reduction=reduction) for own, target in pairs]).sum()
    return total / len(output) if reduction == "sum" else total


class Painted(NamedTuple):
    """A style that has been read."""

    style: Style
    features: Tensor
    side: Side


class Transfer(Task):
    """The networks and how they draw: what both tasks share. Images are RGB in [0, 1]."""

    Controls = StylizeControls
    styles = (1, 8)
    masks = True
    regions = True
    multiple = 8
    strength = "alpha"

    def __init__(self, config: Any, given: Given) -> None:
        super().__init__()
        self.config, self.encoder = config, given.encoder
        self.block = BLOCKS[config.layer]
        self.taps = [f"relu{n}_1" for n in range(self.block, 0, -1)]
        widths = [self.encoder.channels[tap] for tap in self.taps]
        if config.matrix_size > widths[0]:
            limit = f"{self.encoder.name} has {widths[0]} channels at {config.layer}"
            raise ValueError(f"matrix_size: {config.matrix_size} was given, but encoder {limit}")
        self.decoder = MirroredDecoder(widths)
        self.transform = Transform(widths[0], config.matrix_size)
        self.temporal = TemporalAverage()

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def encode(self, images: Tensor) -> Tensor:
        """F: the features that are transformed."""
        features: dict[str, Tensor] = self.encoder(images, [self.taps[0]])
        return features[self.taps[0]]

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 16 px."""
        features = self.encode(content)
        changed_features = self._changed(features, side(self.transform.cnet, features), self._painted(styles), controls)
        return self.finished(self.decoder(changed_features), content, controls)

    @torch.inference_mode()
    def stylize_video(
        self, frames: Iterator[Tensor], styles: Sequence[Style], controls: StylizeControls
    ) -> Iterator[Picture]:
        """Frame by frame; styles are encoded once. Raises ValueError when there is no frame."""
        painted = self._painted(styles)
        with self.temporal.of_one_video(frames, controls) as all_frames:
            for frame in all_frames:
                features = self.encode(frame)
                own = Side(*self.temporal.follow(frame, side(self.transform.cnet, features), controls))
                yield self.finished(self.decoder(self._changed(features, own, painted, controls)), frame, controls)

    def video_state(self) -> dict[str, Tensor]:
        return self.temporal.state()

    def load_video_state(self, state: Mapping[str, Tensor]) -> None:
        self.temporal.restore(state, next(self.decoder.parameters()).device)

    @torch.inference_mode()
    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: StylizeControls, *, tile: int
    ) -> None:
        if any(style.regions is not None for style in styles):
            raise ValueError("regions: label maps were given, but in tiles styles are shared out by masks only")
        device = next(self.decoder.parameters()).device  # tiles come from files
        level = tiles.level_of(lambda x: self.encode(x.to(device)), lambda f: self.decoder(f.to(device)), self.block)
        with TemporaryDirectory(dir=target.path.parent, prefix=f"{target.path.name}.") as name:
            own, kept = tiled_side(self.transform.cnet, source, level, Path(name) / "content", tile=tile)
            self.report(0.4)
            maps = []
            for style in styles:
                painted, _ = tiled_side(
                    self.transform.snet, Loaded(style.image), level, Path(name) / "style", tile=tile
                )
                maps.append(self.transform.folded(own, painted).blended(controls.alpha))
            change = partial(changed, maps=maps, styles=styles, cell=level.cell)
            tiles.draw(
                source, target, level, change, tile=tile, kept=kept, report=lambda share: self.report(0.4 + 0.6 * share)
            )

    def finished(self, transfer: Tensor, content: Tensor, controls: Any) -> Picture:
        """The decoded picture, and what is still to be done to it."""
        return Picture(transfer)

    def _painted(self, styles: Sequence[Style]) -> list[Painted]:
        encoded = [self.encode(style.image) for style in styles]
        return [Painted(s, f, side(self.transform.snet, f)) for s, f in zip(styles, encoded, strict=True)]

    def _changed(self, features: Tensor, own: Side, painted: Sequence[Painted], controls: StylizeControls) -> Tensor:
        parts = []
        for one in painted:
            if one.style.regions is None:
                parts.append(self.transform.folded(own, one.side).blended(controls.alpha)(features))
            else:
                part = self.transform.by_region(features, one.features, one.style.regions, controls.min_cells)
                parts.append(features.lerp(part, controls.alpha))
        return mixed(parts, [one.style for one in painted])


class Train(Transfer):
    """Trains the decoder by reconstruction, then the transformation module; a base model brings a decoder along."""

    Config = TrainConfig
    needs = Needs(
        datasets={"content": "images", "style": "images"}, base_model="linear/train", base_model_required=False
    )
    stretches = (Stretch("decoder", ("decoder_steps", "steps"), given=True), Stretch("transform"))
    model_parts = ("decoder", "transform")

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__(config, given)
        if not config.content_layers or not config.style_layers:
            empty = "style_layers" if config.content_layers else "content_layers"
            raise ValueError(f"{empty}: none was given; a weight of 0 switches a term off")
        self.is_based = given.base is not None
        if given.base is not None:
            load_exactly(self.decoder, given.base.part("decoder"), self.decoder.state_dict())

    def phases(self) -> list[Phase]:
        if self.config.decoder_steps == 0 and not self.is_based:
            raise ValueError("decoder_steps: 0 was given without a base model, so the decoder would stay random")
        return super().phases()

    def streams(self) -> dict[str, Stream]:
        return {"content": self._pairs()["content"]} if self.phase == "decoder" else self._pairs()

    def preview_streams(self) -> dict[str, Stream]:
        return {name: replace(s, count=min(s.count, 4), augment="none") for name, s in self._pairs().items()}

    def optimizers(self) -> dict[str, Optimizer]:
        learning = self.decoder if self.phase == "decoder" else self.transform
        return {self.phase: Adam(learning.parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of the phase."""
        if self.phase == "decoder":
            return self.reconstruction_terms(batch["content"])
        return self.transfer_terms(batch["content"], batch["style"])

    def reconstruction_terms(self, photos: Tensor) -> dict[str, Tensor]:
        """How far decoder(encoder(photos)) is from photos: in pixels, and in features up to the layer."""
        target = self.encoder(photos, self.taps)
        output = self.decoder(target[self.taps[0]])
        features = self.encoder(output, self.taps)
        perceptual = torch.stack([content_loss(features[tap], target[tap]) for tap in self.taps]).sum()
        return {
            "pixel_loss": self.config.lambda_pixel * content_loss(output, photos),
            "perceptual_loss": self.config.lambda_perc * perceptual,
        }

    def transfer_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Content and style term of the pictures that each pair gives."""
        c = self.config
        with torch.no_grad():
            own = self.encoder(content, sorted({self.taps[0], *c.content_layers}))
            painted = self.encoder(style, sorted({self.taps[0], *c.style_layers}))
        output = self.decoder(self.transform(own[self.taps[0]], painted[self.taps[0]]))
        features = self.encoder(output, sorted({*c.content_layers, *c.style_layers}))
        content_terms = [content_loss(features[tap], own[tap]) for tap in c.content_layers]
        style_terms = [style_term(features[tap], painted[tap], c.gram_reduction) for tap in c.style_layers]
        return {
            "content_loss": c.content_weight * torch.stack(content_terms).sum(),
            "style_loss": c.style_weight * torch.stack(style_terms).sum(),
        }

    def onnx_form(self) -> nn.Module | str:
        return LinearForm(self)

    def _pairs(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size, augment="flip")
        return {"content": photos, "style": replace(photos, dataset="style", size=c.style_size)}


class TrainFilter(Transfer):
    """Trains the propagation network to undo what the auto-encoder does to photos; it needs no style for that."""

    Config = FilterConfig
    Controls = PhotoControls
    needs = Needs(datasets={"content": "images"}, base_model="linear/train")
    model_parts = ("decoder", "transform", "spn")
    batch_loss = "sum"
    given_parts = ("decoder", "transform")

    def __init__(self, config: FilterConfig, given: Given) -> None:
        super().__init__(config, given)
        self.spn = PropagationNetwork()
        if given.base is not None:
            for name in self.given_parts:
                part = self.get_submodule(name)
                load_exactly(part, given.base.part(name), part.state_dict())

    def streams(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)
        return {"content": replace(photos, augment="flip")}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"spn": Adam(self.spn.parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The squared error of the filtered reconstruction, summed over batch and pixels."""
        photos = batch["content"]
        with torch.no_grad():
            distorted = self.decoder(self.encode(photos))
        filtered = self.spn(distorted, guide_of(photos, self.config.guide))
        return {"filter_loss": mse_loss(at_least_float32(filtered), photos, reduction="sum")}

    def finished(self, transfer: Tensor, content: Tensor, controls: PhotoControls) -> Picture:
        """In mode photo filtered (unclamped in, clamped out) and smoothed; maps: what there was before each."""
        if controls.mode == "image":
            return Picture(transfer)
        filtered = (self.spn(transfer, guide_of(content, controls.guide)) if controls.spn else transfer).clamp(0, 1)
        radius, edge, ridge = controls.smooth_radius, controls.smooth_edge, controls.smooth_ridge
        picture = smoothed(filtered, content, radius=radius, edge=edge, ridge=ridge, report=self.report)
        return Picture(picture, {"transfer": transfer, "filtered": filtered})

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: Any, *, tile: int
    ) -> None:
        if controls.mode == "photo":
            raise ValueError(
                "tile: in mode photo colours flow over the whole picture, so it cannot be drawn in tiles; "
                "choose a smaller size, or mode image"
            )
        super().stylize_tiles(source, target, styles, controls, tile=tile)

    def onnx_form(self) -> nn.Module | str:
        return "the filter is a recurrence over the columns and rows of a picture, which ONNX can say for one size only"

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos, as the auto-encoder gives them back, and filtered."""
        grid = []
        for n, photo in enumerate(batch["content"], start=1):
            distorted = self.decoder(self.encode(photo[None]))
            filtered = self.spn(distorted, guide_of(photo[None], self.config.guide))
            grid += [(f"content-{n}", photo), (f"reconstruction-{n}", distorted[0]), (f"filtered-{n}", filtered[0])]
        return grid


class LinearForm(nn.Module):
    """Encoder, transformation and decoder as one module of (content, style), at alpha 1."""

    def __init__(self, task: Transfer) -> None:
        super().__init__()
        self.encoder, self.tap, self.transform, self.decoder = task.encoder, task.taps[0], task.transform, task.decoder

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        own, painted = (self.encoder(image, [self.tap])[self.tap] for image in (content, style))
        image: Tensor = self.decoder(self.transform(own, painted))
        return image


METHOD = Method(
    slug="linear",
    title="Linear Transformations for Fast Image and Video Style Transfer",
    paper="arXiv:1808.04537",
    tasks={"train": Train, "train-filter": TrainFilter},
)
