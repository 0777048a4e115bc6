"""AAMS: Attention-Aware Multi-Stroke Style Transfer, Yao, Ren, Xie, Liu, Liu & Wang 2019 (arXiv:1901.05127).

An autoencoder with self-attention learns from photos alone; style enters when a picture is drawn.

    A = sum_j softmax_j( g(f)_i . f(f)_j ) h(f)_j,  O = f A + f            equations 1 to 4, of normalised relu4_1
    L = L_con + 6 |A|_1 + 10 TV                                           of the photo that D(O) gives back
    f_k = swap(O_c, style at beta_k),  f_cs = sum_k w_k(A^) f_k           whitened; w_k: `strokes.py`, swap: `swap.py`
    picture = D(colour(f_cs)), with AdaIN towards the style in D

Without attention and with one stroke it is Avatar-Net, on which it builds (Sheng et al. 2018, arXiv:1805.03857); that
and Style Swap (`swap_baseline.py`) are its baselines. Losses count pixels in levels of 0 to 255, as published.
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

from stylemodels.attention import Form, attention
from stylemodels.encoders import EncoderName, with_pooling
from stylemodels.features import adain, at_least_float32, mean_std
from stylemodels.hourglass import TAPS, HourglassDecoder
from stylemodels.losses import content_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.mixing import mixed
from stylemodels.projection import Projection, coloured, whitened
from stylemodels.schema import FieldError, InvalidConfig
from stylemodels.settings import Common, setting
from stylemodels.square_map import check_square, stretched
from stylemodels.strokes import attention_filter, attention_levels, fused, stroke_weights
from stylemodels.swap import resized, style_swap, swapped_part
from stylemodels.swap_baseline import StyleSwap, SwapControls
from stylemodels.vgg import Pooling

Features = Mapping[str, Tensor]  # tap -> (N, C, H, W)
Tap = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
Reduction = Literal["position", "sum", "mean"]

DEEPEST = "relu4_1"
LEVELS = 255.0  # of a pixel
# The published VGG takes levels, ours levels / 255 / std: its features are so many times larger.
FEATURE_LEVELS = 255 * 0.226
CHUNK = 1024  # rows of the attention map that are held at once: all of a crop of 256 x 256 pixels


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Common):
    """Settings of `aams/avatar-net`; the defaults are those of `aams/train`."""

    steps: int = setting(80_000, "training steps", ge=1)
    batch_size: int = setting(8, "photos per step, over all workers", ge=1)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the crop, pixels", ge=32, multiple_of=8)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.99), "Adam's decay rates of both moments", ge=0, lt=1)
    adam_eps: float = setting(1.0, "added to the root of Adam's second moment; 1 damps small gradients", gt=0)
    pixel_weight: float = setting(10.0, "of pixels, squared, in levels of 0 to 255", ge=0)
    perceptual_weight: float = setting(1.0, "of features, squared, summed over perceptual_layers", ge=0)
    perceptual_layers: tuple[Tap, ...] = setting(TAPS, "taps of the features' term")
    tv_weight: float = setting(10.0, "of total variation, in levels of 0 to 255", ge=0)
    encoder: EncoderName = setting("vgg19", "the fixed encoder")
    vgg_pool: Pooling = setting("avg", "pooling of the encoder; the small ones have max for good", small="max")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReconstructionConfig):
    """Settings of `aams/train`; the defaults are the published ones."""

    attention_dim: int = setting(256, "channels in which positions are compared", ge=1)
    attention_scale: Literal["none", "sqrt_d"] = setting(
        "none", "sqrt_d divides the logits by the root of attention_dim: a softer map, which learns faster"
    )
    att_weight: float = setting(6.0, "of the attention features' absolute values", ge=0)
    att_reduction: Reduction = setting(
        "position",
        "position: summed over channels; sum: over everything, as the authors' code; mean: hardly any effect",
    )


@dataclass(frozen=True, kw_only=True)
class AvatarControls(SwapControls):
    """What a finished model of `aams/avatar-net` can be told."""

    patch_size: int = setting(5, "side of the patches, cells; 3, 5 or 7: larger ones are larger strokes", ge=3, le=7)
    inter_weight: float = setting(1.0, "0 keeps the content's structure, in the style's colours; 1 swaps", ge=0, le=1)
    projection: Projection = setting("zca", "how features are freed of their style: whole covariance, or each channel")
    eig_eps: float = setting(1e-5, "eigenvalues of a covariance up to this count as zero", gt=0)
    decoder_reference: Literal["style", "content"] = setting(
        "style", "whose statistics the decoder takes over; content: more of the photo's colours"
    )


@dataclass(frozen=True, kw_only=True)
class StylizeControls(AvatarControls):
    """What a finished model of `aams/train` can be told."""

    betas: tuple[float, ...] = setting(
        (0.5, 0.7071, 1.0), "scales of the style, one for each stroke size: small ones give coarse strokes", gt=0, le=2
    )
    include_content: bool = setting(True, "the content's own features as a further, finest stroke")
    theta: float = setting(50.0, "how hard strokes are cut against each other; 0 blends them all", ge=0, le=1000)
    stroke_order: Literal["fine_on_salient", "coarse_on_salient"] = setting(
        "fine_on_salient", "which strokes go where the attention is"
    )
    attention_mask: tuple[float, ...] = setting(
        (), "instead of the model's attention: a square map row by row, stretched over the picture", ge=0, le=1
    )
    stroke_pictures: bool = setting(False, "also a picture of each stroke alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.betas:
            raise InvalidConfig([FieldError("/betas", "none was given, at least one stroke is needed")])
        check_square("attention_mask", self.attention_mask)


class SelfAttention(nn.Module):
    """What each position finds in all others: the attention feature map A."""

    def __init__(self, channels: int, dim: int, *, scaled: bool) -> None:
        super().__init__()
        self.scale = dim**-0.5 if scaled else 1.0
        self.f_conv = nn.Conv2d(channels, dim, 1)  # its bias adds one number to a whole row of logits: without effect
        self.g_conv = nn.Conv2d(channels, dim, 1)
        self.h_conv = nn.Conv2d(channels, channels, 1)
        for layer in (self.f_conv, self.g_conv, self.h_conv):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), normalised or whitened -> the same shape, of either sign; in float32 also under autocast."""
        form: Form = "full" if features[0, 0].numel() <= CHUNK else "chunked"
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_float32(features)
            queries, keys = self.scale * self.g_conv(features), self.f_conv(features)
            return attention(queries, keys, self.h_conv(features), form=form, chunk=CHUNK)


class Look(NamedTuple):
    """A style as the method sees it."""

    style: Style
    features: Features
    whitened: Tensor  # of the deepest


class Hourglass(Task):
    """Encoder, decoder and what both tasks do with them. Images are RGB in [0, 1]."""

    needs = Needs(datasets={"content": "images"})
    styles = (1, 8)
    masks = True
    multiple = 8

    def __init__(self, config: ReconstructionConfig, given: Given) -> None:
        super().__init__()
        if not config.perceptual_layers:
            raise ValueError("perceptual_layers: none was given, at least one is needed")
        self.config = config
        self.encoder = with_pooling(given.encoder, config.vgg_pool)
        self.decoder = HourglassDecoder(self.encoder.channels)

    def streams(self) -> dict[str, Stream]:
        c = self.config
        return {"content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)}

    def optimizers(self) -> dict[str, Optimizer]:
        c = self.config
        trained = [p for part in self.model_parts for p in self.get_submodule(part).parameters()]
        return {"main": Adam(trained, lr=c.lr, betas=c.betas, eps=c.adam_eps)}

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Features:
        found: Features = self.encoder(images, TAPS)
        return found

    def reconstruction(self, output: Tensor, photos: Tensor, own: Features) -> dict[str, Tensor]:
        """L_con (equation 5) in two terms, and total variation, of the pictures that the decoder gave back."""
        c = self.config
        seen = self.encoder(output, sorted(set(c.perceptual_layers)))
        perceptual = torch.stack([content_loss(seen[tap], own[tap]) for tap in seen]).sum()
        return {
            "pixel_loss": c.pixel_weight * LEVELS**2 * content_loss(output, photos),
            "perceptual_loss": c.perceptual_weight * FEATURE_LEVELS**2 * perceptual,
            "tv_loss": c.tv_weight * LEVELS * total_variation(output),
        }

    def decoded(self, features: Tensor, references: Sequence[Features], styles: Sequence[Style]) -> Tensor:
        """The decoder's pictures, with the statistics of `references`, each by its style's share."""
        images: Tensor = self.decoder(
            features, lambda x, tap: mixed([adain(x, reference[tap]) for reference in references], styles)
        )
        return images

    def looks(self, styles: Sequence[Style], controls: AvatarControls) -> list[Look]:
        found = []
        for style in styles:
            features = self.encoded(swapped_part(style.image, controls.style_short, controls.style_crop))
            found.append(Look(style, features, whitened(features[DEEPEST], controls.projection, controls.eig_eps)))
        return found

    def strokes(
        self, base: Tensor, looks: Sequence[Look], betas: Sequence[float], controls: AvatarControls
    ) -> list[list[Tensor]]:
        """For each style, `base` (1, C, h, w) made of its patches at each scale."""
        sizes = {"patch_size": controls.patch_size, "band_rows": controls.swap_band_rows}
        found: list[list[Tensor]] = []
        for n, look in enumerate(looks, start=1):
            found.append([style_swap(base, resized(look.whitened, beta), **sizes) for beta in betas])
            self.report(n / (len(looks) + 1))
        return found

    def painted(
        self, swapped: Sequence[Tensor], *, own: Features, base: Tensor, looks: Sequence[Look], controls: AvatarControls
    ) -> Tensor:
        """The picture of swapped features, one map (1, C, h, w) for each style; `base` is what they were made from."""
        styles = [look.style for look in looks]
        parts = [
            coloured(
                base.lerp(one, controls.inter_weight), look.features[DEEPEST], controls.projection, controls.eig_eps
            )
            for one, look in zip(swapped, looks, strict=True)
        ]
        references = [own if controls.decoder_reference == "content" else look.features for look in looks]
        return self.decoded(mixed(parts, styles), references, styles)

    def onnx_form(self) -> nn.Module | str:
        return "whitening takes the eigenvalues and eigenvectors of a covariance, for which ONNX has no operator"

    def preview_streams(self) -> dict[str, Stream]:
        photos = self.streams()["content"]
        return {"content": replace(photos, count=min(photos.count, 3))}

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos, each in the style of the next one: there are no paintings in this training."""
        photos = batch["content"]
        rows = [self.preview_row(photo[None], photos[(n + 1) % len(photos)][None]) for n, photo in enumerate(photos)]
        return [(f"{name}-{n}", image) for n, row in enumerate(rows, start=1) for name, image in row]

    def preview_row(self, photo: Tensor, style: Tensor) -> list[tuple[str, Tensor]]:
        """A photo and a style (1, 3, H, W); the photo given back, and drawn."""
        own, picture = self.encoded(photo), self.stylize(photo, [Style(style)], self.Controls())
        back = self.decoded(own[DEEPEST], [own], [Style(photo)])
        assert picture.image is not None
        return [("content", photo[0]), ("style", style[0]), ("back", back[0]), ("result", picture.image[0])]


class AvatarNet(Hourglass):
    """Trains the decoder alone, by reconstruction."""

    Config = ReconstructionConfig
    Controls = AvatarControls
    model_parts = ("decoder",)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        photos = batch["content"]
        own = self.encoded(photos)
        return self.reconstruction(self.decoded(own[DEEPEST], [own], [Style(photos)]), photos, own)

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: AvatarControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 16 px."""
        own = self.encoded(content)
        base = whitened(own[DEEPEST], controls.projection, controls.eig_eps)
        looks = self.looks(styles, controls)
        swapped = [one for (one,) in self.strokes(base, looks, (1.0,), controls)]
        return Picture(self.painted(swapped, own=own, base=base, looks=looks, controls=controls))


class Train(Hourglass):
    """Trains the self-attention and the decoder together, by reconstruction."""

    Config = TrainConfig
    Controls = StylizeControls
    model_parts = ("attention", "decoder")

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__(config, given)
        scaled = config.attention_scale == "sqrt_d"
        self.attention = SelfAttention(self.encoder.channels[DEEPEST], config.attention_dim, scaled=scaled)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        photos, c = batch["content"], self.config
        own = self.encoded(photos)
        mean, std = mean_std(own[DEEPEST], eps=1e-7)
        normalised = (own[DEEPEST] - mean) / std
        found = self.attention(normalised)
        output = self.decoded((normalised * found + normalised) * std + mean, [own], [Style(photos)])
        return {
            **self.reconstruction(output, photos, own),
            "attention_loss": c.att_weight * attention_loss(found, c.att_reduction, c.batch_size),
        }

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 16 px.

        Maps: `attention`, as large as the features; `centroids` (1, 1, 1, K), the attention of each stroke, ascending;
        `mask_k`, where stroke k lies, 1 the finest; with `stroke_pictures`, `stroke_k`, the picture of it alone. The
        content's own features are the stroke `content`.
        """
        own = self.encoded(content)
        base = whitened(own[DEEPEST], controls.projection, controls.eig_eps)
        found = self.attention(base)
        base = base * found + base
        salience = stretched(controls.attention_mask, base) if controls.attention_mask else attention_filter(found)

        betas = sorted(controls.betas)  # coarse to fine
        names = [str(n) for n in range(len(betas), 0, -1)] + ["content"] * controls.include_content
        levels = attention_levels(salience, len(names))
        weights = stroke_weights(salience, levels, controls.theta)
        if controls.stroke_order == "coarse_on_salient":
            weights = weights.flip(0)

        looks = self.looks(styles, controls)
        unswapped = [base] * controls.include_content
        strokes = [[*of_style, *unswapped] for of_style in self.strokes(base, looks, betas, controls)]
        paint = partial(self.painted, own=own, base=base, looks=looks, controls=controls)
        maps = {"attention": salience, "centroids": levels.view(1, 1, 1, -1)}
        for k, name in enumerate(names):
            maps[f"mask_{name}"] = weights[k : k + 1]
            if controls.stroke_pictures:
                maps[f"stroke_{name}"] = paint([of_style[k] for of_style in strokes]).clamp(0, 1)
        return Picture(paint([fused(of_style, weights) for of_style in strokes]), maps)

    def preview_row(self, photo: Tensor, style: Tensor) -> list[tuple[str, Tensor]]:
        """Each stroke alone, from the finest; content and style; the attention map; all strokes."""
        picture = self.stylize(photo, [Style(style)], StylizeControls(stroke_pictures=True))
        strokes = [(f"stroke-{n}", picture.maps[f"stroke_{n}"][0]) for n in range(1, 4)]
        attention = interpolate(picture.maps["attention"], size=photo.shape[-2:])[0].expand(3, -1, -1)
        assert picture.image is not None
        shown = [("content", photo[0]), ("style", style[0]), ("attention", attention), ("result", picture.image[0])]
        return [*strokes, *shown]


def attention_loss(found: Tensor, reduction: Reduction, pictures: int) -> Tensor:
    """L_att, equation 6: absolute values of the attention features (N, C, H, W), a scalar.

    pictures: of the whole batch, over all workers, which `sum` goes over.
    """
    strength = at_least_float32(found).abs().mean()
    match reduction:
        case "mean":
            return strength
        case "position":
            return found.shape[1] * strength
        case "sum":
            return pictures * found[0].numel() * strength


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute differences of neighbouring pixels (N, C, H, W), down and across, a scalar."""
    images = at_least_float32(images)
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.abs().mean() + across.abs().mean()


METHOD = Method(
    slug="aams",
    title="Attention-Aware Multi-Stroke Style Transfer",
    paper="arXiv:1901.05127",
    tasks={"train": Train, "avatar-net": AvatarNet, "style-swap": StyleSwap},
)
