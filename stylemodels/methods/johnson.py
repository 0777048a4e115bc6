"""Perceptual losses for real-time style transfer, Johnson, Alahi & Fei-Fei 2016 (arXiv:1603.08155).

One feed-forward network for one painting, trained on photos with a loss that a fixed encoder takes:

    l = content_weight * l_content + style_weight * l_style + tv_weight * l_tv     equation 5, of y = f(c)

The network is the one that MetaStyle adapts, so the two compare: nearest up-sampling and a sigmoid at the end, where
the paper has transposed convolutions and a scaled tanh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels.blocks import FastStyleNetwork
from stylemodels.encoders import EncoderName
from stylemodels.images import resize, scaled_to_shorter
from stylemodels.losses import tv_loss
from stylemodels.method import Batch, Given, Method, Needs, NoControls, Picture, Stream, Style, Task
from stylemodels.perceptual import PerceptualLoss
from stylemodels.settings import Common, setting


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `johnson/train`; the defaults are the published ones."""

    steps: int = setting(40_000, "training steps", ge=1, le=1_000_000)
    batch_size: int = setting(4, "photos per step, over all workers", ge=1, le=64)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=4)
    load_size: int = setting(256, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    style_size: int = setting(
        256, "shorter side of the style picture, pixels; smaller: broader strokes", ge=32, le=2048
    )
    lr: float = setting(1e-3, "Adam's learning rate", gt=0)
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(1e5, "weight of the style term", ge=0, small=1000.0)
    # published: 1e-6 to 1e-4 for a sum of squares over 3 * 256 * 256 numbers of 0 ... 255, beside features of Caffe's
    # VGG, which sees numbers 58 times as large: 1e-6 * 3 * 256^2 * 255^2 / 58^2 = 3.8 times a mean over 0 ... 1
    tv_weight: float = setting(4.0, "weight of the total variation (4: the published 1e-6 in our units)", ge=0)
    encoder: EncoderName = setting("vgg16", "the fixed encoder that measures content and style")
    width: int = setting(32, "channels of the network's first layer", ge=4, le=64)
    res_blocks: int = setting(5, "residual blocks", ge=1, le=9)
    checkpoint_every: int = setting(2000, "steps between checkpoints", ge=1)


class Train(Task):
    """Trains the network for one painting. Images are RGB in [0, 1]."""

    Config = TrainConfig
    needs = Needs(datasets={"content": "images"}, style_image=True)
    model_parts = ("network",)
    styles = (0, 0)
    multiple = 4
    stylize_encodes = False

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config, self.given = config, given
        self.network = FastStyleNetwork(config.width, config.res_blocks)
        self.encoder = given.encoder
        self.loss = PerceptualLoss(self.encoder, content_weight=config.content_weight, style_weight=config.style_weight)
        for tap in self.loss.style_taps:
            channels = self.encoder.channels[tap]
            self.register_buffer(f"gram_{tap}", torch.zeros(1, channels, channels))

    def streams(self) -> dict[str, Stream]:
        c = self.config
        return {"content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)}

    def calibrate(self, batch: Batch) -> None:
        """The style's Gram matrices, once: the style does not change."""
        style = self.given.style_image
        assert style is not None, "build_task demands one"
        height, width = style.shape[-2:]
        width, height = scaled_to_shorter(width, height, self.config.style_size)
        scaled = resize(style.to(batch["content"].device), height, width)
        for tap, value in self.loss.style_target(scaled).items():
            self.get_buffer(f"gram_{tap}").copy_(value)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"network": Adam(self.network.parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        photos = batch["content"]
        output = self.network(photos)
        grams = {tap: self.get_buffer(f"gram_{tap}") for tap in self.loss.style_taps}
        terms = self.loss(output, self.loss.content_target(photos), grams)
        return {**terms, "tv_loss": self.config.tv_weight * tv_loss(output)}

    def onnx_form(self) -> nn.Module:
        return self.network

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: NoControls) -> Picture:
        """`content` (1, 3, H, W) in the model's own style."""
        return Picture(self.network(content))

    def model_facts(self) -> dict[str, Any]:
        return {"taps": self.loss.taps_used()}


METHOD = Method(
    slug="johnson",
    title="Perceptual Losses for Real-Time Style Transfer",
    paper="arXiv:1603.08155",
    tasks={"train": Train},
)
