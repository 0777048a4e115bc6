"""Style Swap, Chen & Schmidt 2016 (arXiv:1612.04337): the oldest way to draw any style by patches, as a baseline.

    F = swap(E(c), E(s))             features at relu3_1, patches of 3 x 3, nothing whitened
    L = |E(D(F)) - F|^2 + lambda TV  for F of photos, of paintings, and of photos made of the paintings' patches

All terms are means. The paper swaps every photo of a batch with every painting, here each with its own one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels.blocks import MirroredDecoder
from stylemodels.encoders import EncoderName
from stylemodels.losses import content_loss, tv_loss
from stylemodels.method import Batch, Given, Needs, Picture, Stream, Style, Task
from stylemodels.mixing import mixed
from stylemodels.schema import FieldError, InvalidConfig
from stylemodels.settings import Common, setting
from stylemodels.swap import style_swap, swapped_part

TAPS = ("relu3_1", "relu2_1", "relu1_1")


@dataclass(frozen=True, kw_only=True)
class SwapConfig(Common):
    """Settings of `aams/style-swap`; published are the loss and its tap, patch_size, lr and tv_weight."""

    steps: int = setting(80_000, "training steps", ge=1)
    batch_size: int = setting(2, "photos and as many paintings per step, over all workers", ge=1)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the photos' crop, pixels", ge=32, multiple_of=8)
    style_size: int = setting(256, "side of the paintings' crop, pixels", ge=32, multiple_of=8)
    patch_size: int = setting(3, "side of the patches that are swapped in training, cells: 3, 5 or 7", ge=3, le=7)
    lr: float = setting(1e-3, "Adam's learning rate", gt=0)
    tv_weight: float = setting(1e-6, "of total variation", ge=0)
    encoder: EncoderName = setting("vgg19", "the fixed encoder")


@dataclass(frozen=True, kw_only=True)
class SwapControls:
    """What a finished model of `aams/style-swap` can be told."""

    patch_size: int = setting(3, "side of the patches, cells: 3, 5 or 7; larger ones are larger strokes", ge=3, le=7)
    style_short: int = setting(
        512, "shorter side that larger style pictures are brought to, pixels; 0 keeps them", ge=0, multiple_of=16
    )
    style_crop: int = setting(
        448, "sides of the part cut out of their middle, pixels; 0: all of it, which takes longer", ge=0, multiple_of=16
    )
    swap_band_rows: int = setting(32, "rows of features that are swapped at once; fewer take less memory", ge=1)

    def __post_init__(self) -> None:
        if self.patch_size % 2 == 0:
            raise InvalidConfig([FieldError("/patch_size", f"{self.patch_size} was given, it must be odd")])


class StyleSwap(Task):
    """Trains the decoder D. Images are RGB in [0, 1]."""

    Config = SwapConfig
    Controls = SwapControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    model_parts = ("decoder",)
    styles = (1, 8)
    masks = True
    multiple = 8

    def __init__(self, config: SwapConfig, given: Given) -> None:
        super().__init__()
        if config.patch_size % 2 == 0:
            raise ValueError(f"patch_size: {config.patch_size} was given, it must be odd")
        self.config = config
        self.encoder = given.encoder
        self.decoder = MirroredDecoder([self.encoder.channels[tap] for tap in TAPS])

    def streams(self) -> dict[str, Stream]:
        c = self.config
        sizes = {"content": c.content_size, "style": c.style_size}
        return {n: Stream(n, count=c.batch_size, size=side, load_size=c.load_size) for n, side in sizes.items()}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"decoder": Adam(self.decoder.parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        with torch.no_grad():
            content, style = self.encoded(batch["content"]), self.encoded(batch["style"])
            swapped = style_swap(content, style, patch_size=self.config.patch_size)
        wanted = [content, style, swapped]
        outputs = [self.decoder(features) for features in wanted]
        errors = [content_loss(self.encoded(o), features) for o, features in zip(outputs, wanted, strict=True)]
        return {
            "feature_loss": torch.stack(errors).mean(),
            "tv_loss": self.config.tv_weight * torch.stack([tv_loss(output) for output in outputs]).mean(),
        }

    def encoded(self, images: Tensor) -> Tensor:
        features: dict[str, Tensor] = self.encoder(images, TAPS[:1])
        return features[TAPS[0]]

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: SwapControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 8 px: features are blended."""
        own = self.encoded(content)
        parts = []
        for n, style in enumerate(styles, start=1):
            offered = self.encoded(swapped_part(style.image, controls.style_short, controls.style_crop))
            parts.append(
                style_swap(own, offered, patch_size=controls.patch_size, band_rows=controls.swap_band_rows),
            )
            self.report(n / (len(styles) + 1))
        return Picture(self.decoder(mixed(parts, styles)))

    def onnx_form(self) -> nn.Module | str:
        return "patches are swapped in bands, as many as the picture is large, and a graph has no such loop"
