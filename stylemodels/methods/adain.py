"""Adaptive Instance Normalization, Huang & Belongie 2017 (arXiv:1703.06868).

A fixed encoder, one exchange of statistics, one trained decoder:

    t = AdaIN(E(c), E(s))                                        equation 8, features at relu4_1
    L = content_weight * Lc + style_weight * Ls                  equation 11, of D(t)
    picture = D((1 - alpha) E(c) + alpha * sum of w_k t_k)       equations 14 and 15
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels import exchange
from stylemodels.blocks import MirroredDecoder
from stylemodels.cascade import Pair
from stylemodels.encoders import Encoder, EncoderName
from stylemodels.features import adain
from stylemodels.losses import content_loss, statistics_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.raster import Raster
from stylemodels.settings import Common, setting

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
DEEPEST = TAPS[-1]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `adain/train`; the defaults are the published ones."""

    steps: int = setting(160_000, "training steps", ge=1, le=1_000_000)
    batch_size: int = setting(8, "content-style pairs per step, over all workers", ge=1, le=64)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=16)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, le=1024, multiple_of=16)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    lr_decay: float = setting(5e-5, "the rate is lr / (1 + lr_decay * step)", ge=0)
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(10.0, "lambda in equation 11", ge=0)
    encoder: EncoderName = setting("vgg19-normalised", "the fixed encoder E")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 keeps the content's own features, 1 takes the style (equation 14)", ge=0, le=1)


class Train(Task):
    """Trains the decoder D. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    model_parts = ("decoder",)
    styles = (1, 8)
    masks = True
    strength = "alpha"

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.encoder = given.encoder
        self.decoder = MirroredDecoder([self.encoder.channels[tap] for tap in reversed(TAPS)])

    def streams(self) -> dict[str, Stream]:
        c = self.config
        return {
            "content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size),
            "style": Stream("style", count=c.batch_size, size=c.style_size, load_size=c.load_size),
        }

    def optimizers(self) -> dict[str, Optimizer]:
        return {"decoder": Adam(self.decoder.parameters(), lr=self.config.lr)}

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        with torch.no_grad():
            style = self.encoder(batch["style"], TAPS)
            target = adain(self.encoder(batch["content"], [DEEPEST])[DEEPEST], style[DEEPEST])
        output = self.encoder(self.decoder(target), TAPS)
        style_losses = torch.stack([statistics_loss(output[tap], style[tap]) for tap in TAPS])
        return {
            # The target is t, not E(c): the paper found that it converges faster.
            "content_loss": self.config.content_weight * content_loss(output[DEEPEST], target),
            "style_loss": self.config.style_weight * style_losses.sum(),
        }

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 16 px."""
        return Picture(exchange.draw(content, styles, self._pair(), alpha=controls.alpha))

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: StylizeControls, *, tile: int
    ) -> None:
        exchange.draw_tiles(source, target, styles, self._pair(), alpha=controls.alpha, tile=tile, report=self.report)

    def onnx_form(self) -> nn.Module:
        return exchange.AdaINForm(Deepest(self.encoder), self.decoder)

    def _pair(self) -> Pair:
        return Pair(Deepest(self.encoder), self.decoder, len(TAPS))


class Deepest(nn.Module):
    """E up to the tap whose statistics are exchanged."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> relu4_1, (N, C, H // 8, W // 8)."""
        features: dict[str, Tensor] = self.encoder(images, [DEEPEST])
        return features[DEEPEST]


METHOD = Method(
    slug="adain",
    title="Adaptive Instance Normalization",
    paper="arXiv:1703.06868",
    tasks={"train": Train},
)
