"""SANet: Arbitrary Style Transfer with Style-Attentional Networks, Park & Lee 2019 (arXiv:1812.02342).

A fixed encoder E, one attention block on each of two levels, a decoder D; T is everything between E and D:

    A_ij = softmax_j( f(mvn F_c)_i . g(mvn F_s)_j )            equation 5; i a content position, j a style position
    F_csc = F_c + W( sum_j A_ij h(F_s)_j )                     equations 1 and 2
    F_m = conv3x3( F_csc(relu4_1) + up2(F_csc(relu5_1)) )      equation 3
    I_cs = D(F_m)                                              equation 4
    L = content_weight * L_c + style_weight * L_s + L_identity equation 6

All terms are means of squares. The identity weights are the authors' erratum: 50 on pixels and 1 on features, where the
paper prints them the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim import Adam, Optimizer

from stylemodels.attention import Form, attention
from stylemodels.blocks import MirroredDecoder, reflect_conv
from stylemodels.encoders import Encoder, EncoderName
from stylemodels.features import at_least_float32, mean_std
from stylemodels.losses import content_loss, statistics_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.mixing import mixed
from stylemodels.settings import Common, setting

Levels = Literal["both", "relu4_1", "relu5_1"]
Features = Mapping[str, Tensor]  # tap -> (N, C, H, W)

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_TAPS = ("relu4_1", "relu5_1")
LEVELS: Mapping[Levels, tuple[str, ...]] = {
    "both": ("relu4_1", "relu5_1"),
    "relu4_1": ("relu4_1",),
    "relu5_1": ("relu5_1",),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `sanet/train`; the defaults are the published ones."""

    steps: int = setting(160_000, "training steps", ge=1)
    batch_size: int = setting(5, "content-style pairs per step, over all workers", ge=1)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    keep_aspect: bool = setting(
        True, "false squashes pictures to load_size x load_size before the crop (0: to the crop itself)"
    )
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, multiple_of=16)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, multiple_of=16)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    lr_decay: float = setting(5e-5, "the rate is lr / (1 + lr_decay * step)", ge=0)
    content_weight: float = setting(1.0, "of equation 7, normalised features", ge=0)
    style_weight: float = setting(3.0, "of equation 8, channel means and deviations", ge=0)
    identity1_weight: float = setting(50.0, "of equation 9, pixels; by the authors' erratum, the paper prints 1", ge=0)
    identity2_weight: float = setting(
        1.0, "of equation 9, features; by the authors' erratum, the paper prints 50", ge=0
    )
    levels: Levels = setting("both", "where attention happens; relu4_1 alone is faster, with local patterns only")
    attention: Form = setting(
        "sdpa", "PyTorch's fused kernel, the full map, or the map in chunks; results agree but for rounding"
    )
    chunk: int = setting(1024, "content positions at a time, with attention chunked", ge=1)
    encoder: EncoderName = setting("vgg19-normalised", "the fixed encoder E")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 redraws the content in its own style, 1 takes the style", ge=0, le=1)


def mvn(features: Tensor) -> Tensor:
    """Every channel with mean 0 and variance 1 (the unbiased one) over its positions: the bar over F in the paper.

    features: (N, C, H, W). Returns the same shape, float32 (float64 stays float64).
    """
    mean, std = mean_std(features, correction=1)
    return (at_least_float32(features) - mean) / std


class StyleAttention(nn.Module):
    """The SANet block of one level: every content position is given a mixture of style positions."""

    def __init__(self, channels: int, form: Form, chunk: int) -> None:
        super().__init__()
        self.form, self.chunk = form, chunk
        self.f = nn.Conv2d(channels, channels, 1)
        self.g = nn.Conv2d(channels, channels, 1)  # its bias adds one number to a whole row of logits: without effect
        self.h = nn.Conv2d(channels, channels, 1)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """content: (N, C, H, W), style: (N, C, H', W'). Returns F_csc, (N, C, H, W); in float32 also under autocast."""
        with torch.autocast(content.device.type, enabled=False):
            content, style = at_least_float32(content), at_least_float32(style)
            queries, keys = self.f(mvn(content)), self.g(mvn(style))
            found = attention(queries, keys, self.h(style), form=self.form, chunk=self.chunk)
            result: Tensor = content + self.out_conv(found)
        return result


class Transform(nn.Module):
    """T: content and style features to those that the decoder paints, F_m."""

    def __init__(self, channels: Mapping[str, int], levels: Levels, form: Form, chunk: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({tap: StyleAttention(channels[tap], form, chunk) for tap in LEVELS[levels]})
        self.merge_conv = reflect_conv(channels["relu4_1"], channels["relu4_1"], 3)

    def forward(self, content: Features, style: Features) -> Tensor:
        """Features at the block's taps -> (N, C, H, W) at relu4_1's stride, of the content's size."""
        attended = {tap: block(content[tap], style[tap]) for tap, block in self.blocks.items()}
        if "relu5_1" in attended:
            attended["relu5_1"] = interpolate(attended["relu5_1"], scale_factor=2)
        result: Tensor = self.merge_conv(torch.stack(list(attended.values())).sum(0))
        return result


class Drawn(NamedTuple):
    """Pictures that the network drew, and what E sees in them."""

    images: Tensor  # (N, 3, H, W)
    features: Features


class Train(Task):
    """Trains T and D together. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    model_parts = ("transform", "decoder")
    strength = "alpha"
    styles = (1, 8)
    masks = True

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.encoder = given.encoder
        channels = self.encoder.channels
        self.transform = Transform(channels, config.levels, config.attention, config.chunk)
        self.decoder = MirroredDecoder([channels[tap] for tap in ("relu4_1", "relu3_1", "relu2_1", "relu1_1")])

    def streams(self) -> dict[str, Stream]:
        c = self.config
        sizes = {"content": c.content_size, "style": c.style_size}
        return {
            name: Stream(name, count=c.batch_size, size=size, load_size=c.load_size, squash=not c.keep_aspect)
            for name, size in sizes.items()
        }

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": Adam([*self.transform.parameters(), *self.decoder.parameters()], lr=self.config.lr)}

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        c = self.config
        content, style = batch["content"], batch["style"]
        with torch.no_grad():
            of_content, of_style = self.encoder(content, TAPS), self.encoder(style, TAPS)
        cs, cc, ss = self.drawn([(of_content, of_style), (of_content, of_content), (of_style, of_style)])
        identity1 = content_loss(cc.images, content) + content_loss(ss.images, style)
        identity2 = feature_loss(cc.features, of_content) + feature_loss(ss.features, of_style)
        return {
            "content_loss": c.content_weight * structure_loss(cs.features, of_content),
            "style_loss": c.style_weight * style_loss(cs.features, of_style),
            "identity1_loss": c.identity1_weight * identity1,
            "identity2_loss": c.identity2_weight * identity2,
        }

    def drawn(self, pairs: Sequence[tuple[Features, Features]]) -> list[Drawn]:
        """D(T(content, style)) of every pair, and its features.

        Nothing mixes samples, so one call on the stack does for all, unless the crops differ in size.
        """
        contents, styles = zip(*pairs, strict=True)
        if not same_sizes([*contents, *styles]):
            return [self.painted(content, style) for content, style in pairs]
        whole = self.painted(stacked(contents), stacked(styles))
        images = whole.images.chunk(len(pairs))
        features = {tap: value.chunk(len(pairs)) for tap, value in whole.features.items()}
        return [Drawn(image, {tap: parts[n] for tap, parts in features.items()}) for n, image in enumerate(images)]

    def painted(self, content: Features, style: Features) -> Drawn:
        images = self.decoder(self.transform(content, style))
        return Drawn(images, self.encoder(images, TAPS))

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 32 px: features are blended.

        Raises ValueError for a smaller picture: one position of relu5_1 has no variance.
        """
        taps = LEVELS[self.config.levels]
        own = self.encoder(content, taps)
        parts = [self.transform(own, self.encoder(style.image, taps)) for style in styles]
        features = mixed(parts, styles)
        if controls.alpha < 1:  # D never saw F_c itself: the other end is the network's own content
            features = self.transform(own, own).lerp(features, controls.alpha)
        return Picture(self.decoder(features))

    def onnx_form(self) -> nn.Module:
        return ExplicitForm(self)


class ExplicitForm(nn.Module):
    """content, style -> D(T(content, style)) with the attention map written out: the fused kernel is no ONNX."""

    def __init__(self, task: Train) -> None:
        super().__init__()
        self.taps = LEVELS[task.config.levels]
        self.encoder: Encoder = task.encoder
        self.decoder = task.decoder
        self.transform = deepcopy(task.transform)
        for block in self.transform.modules():
            if isinstance(block, StyleAttention):
                block.form = "full"

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.transform(self.encoder(content, self.taps), self.encoder(style, self.taps)))
        return image


def structure_loss(output: Features, content: Features) -> Tensor:
    """L_c, equation 7: squared distance of normalised features, summed over two taps."""
    return torch.stack([content_loss(mvn(output[tap]), mvn(content[tap])) for tap in CONTENT_TAPS]).sum()


def style_loss(output: Features, style: Features) -> Tensor:
    """L_s, equation 8: squared distance of channel means and deviations, summed over five taps."""
    return torch.stack([statistics_loss(output[tap], style[tap], correction=1) for tap in TAPS]).sum()


def feature_loss(output: Features, target: Features) -> Tensor:
    """The feature half of L_identity, equation 9, for one picture: not normalised, summed over five taps."""
    return torch.stack([content_loss(output[tap], target[tap]) for tap in TAPS]).sum()


def stacked(parts: Sequence[Features]) -> Features:
    """Along the batch."""
    return {tap: torch.cat([part[tap] for part in parts]) for tap in parts[0]}


def same_sizes(parts: Sequence[Features]) -> bool:
    return len({part["relu1_1"].shape for part in parts}) == 1


METHOD = Method(
    slug="sanet",
    title="Style-Attentional Network",
    paper="arXiv:1812.02342",
    tasks={"train": Train},
)
