"""Universal Style Transfer via Feature Transforms, Li, Fang, Yang, Wang, Lu & Yang 2017 (arXiv:1705.08086): WCT.

A fixed encoder, a decoder for each of its depths, and no training on styles:

    L = |D(E(x)) - x|^2 + lambda |E(D(E(x))) - E(x)|^2      equation 1, E up to reluX_1, X = 5 ... 1, one D for each
    f' = E_s D_s^(1/2) E_s^T  E_c D_c^(-1/2) E_c^T (f_c - m_c) + m_s       whitening and colouring, section 3.2
    picture = D_1(wct(E_1(... D_5(wct(E_5(content))))))                    coarse to fine, section 3.3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels import cascade
from stylemodels.blocks import MirroredDecoder
from stylemodels.cascade import Pair, Stats
from stylemodels.encoders import EncoderName
from stylemodels.losses import content_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.phases import Stretch
from stylemodels.raster import Raster
from stylemodels.settings import Common, setting

LEVELS = (5, 4, 3, 2, 1)  # coarse to fine


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `wct/train`. Published are the photos (COCO) and feature_weight; ours is the recipe of paper 01.

    Collaborative Distillation (arXiv:2003.08436) trains the same decoders by the same loss.
    """

    steps: int = setting(103_480, "training steps of each level", ge=1, le=1_000_000)
    levels: tuple[int, ...] = setting(
        LEVELS, "for which depths of the encoder decoders are trained, in order", ge=1, le=5
    )
    batch_size: int = setting(16, "photos per step, over all workers", ge=1, le=64)
    load_size: int = setting(300, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the crop, pixels", ge=32, le=1024, multiple_of=16)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    feature_weight: float = setting(1.0, "lambda in equation 1: weight of the features' difference", ge=0)
    encoder: EncoderName = setting("vgg19-normalised", "the fixed encoder")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 keeps the content's own features, 1 takes the style, at each level", ge=0, le=1)
    levels: tuple[int, ...] = setting(
        (), "levels to draw, in this order; none: all that the model has, coarse to fine", ge=1, le=5
    )
    eig_eps: float = setting(1e-5, "eigenvalues of a covariance up to this count as zero", gt=0)
    cov_shrink: float = setting(
        0.0, "added to the diagonal of the content's covariance; the authors' own code adds 1: a calmer picture", ge=0
    )
    stats: Stats = setting("exact", "where tiles have the content's statistics from: all of it, or a small copy")
    thumb_size: int = setting(1024, "shorter side of the small copy, pixels", ge=64, multiple_of=16)


class Train(Task):
    """Trains one decoder for each level, by reconstruction. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images"})
    stretches = (Stretch("level", each="levels"),)
    model_parts = ("decoders",)
    styles = (1, 8)
    masks = True
    strength = "alpha"

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        if not config.levels or len(set(config.levels)) < len(config.levels):
            raise ValueError(f"levels: {list(config.levels)} were given, allowed are different ones out of 1 to 5")
        self.config = config
        self.encoder = given.encoder
        widths = {level: self.encoder.channels[tap_of(level)] for level in LEVELS}
        self.decoders = nn.ModuleDict(
            {f"level{n}": MirroredDecoder([widths[level] for level in range(n, 0, -1)]) for n in config.levels}
        )

    def streams(self) -> dict[str, Stream]:
        c = self.config
        return {"content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"decoder": Adam(self.decoders[self.phase].parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of equation 1 at the phase's level."""
        photos, pair = batch["content"], self.pair(int(self.phase.removeprefix("level")))
        features = pair.encode(photos)
        output = pair.decode(features)
        return {
            "pixel_loss": content_loss(output, photos),
            "feature_loss": self.config.feature_weight * content_loss(pair.encode(output), features),
        }

    def pair(self, level: int) -> Pair:
        """The encoder up to relu{level}_1, and its decoder."""
        tap, decoder = tap_of(level), self.decoders[f"level{level}"]
        device = next(decoder.parameters()).device  # tiles come from files

        def encode(images: Tensor) -> Tensor:
            features: dict[str, Tensor] = self.encoder(images.to(device), [tap])
            return features[tap]

        return Pair(encode, lambda features: decoder(features.to(device)), level)

    def pairs(self, asked: Sequence[int]) -> list[Pair]:
        """The levels asked for, or all, coarse to fine. Raises ValueError for one that was not trained."""
        trained = self.config.levels
        if absent := [level for level in asked if level not in trained]:
            raise ValueError(f"levels: {absent[0]} was given, this model has {', '.join(map(str, sorted(trained)))}")
        return [self.pair(level) for level in asked or sorted(trained, reverse=True)]

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, each of any size from 32 px."""
        return Picture(cascade.draw(content, styles, self.pairs(controls.levels), report=self.report, **told(controls)))

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: StylizeControls, *, tile: int
    ) -> None:
        cascade.draw_tiles(
            source,
            target,
            styles,
            self.pairs(controls.levels),
            tile=tile,
            report=self.report,
            stats=controls.stats,
            thumb_size=controls.thumb_size,
            **told(controls),
        )

    def onnx_form(self) -> nn.Module | str:
        return "whitening takes the eigenvalues and eigenvectors of a covariance, for which ONNX has no operator"

    def preview_streams(self) -> dict[str, Stream]:
        photos = self.streams()["content"]
        return {"content": replace(photos, count=min(photos.count, 3))}

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos as each decoder gives them back, and each in the next one's style, by the levels trained so far."""
        photos, pairs = batch["content"], self.pairs(self._begun())
        grid = []
        for n, photo in enumerate(photos):
            grid.append((f"content-{n + 1}", photo))
            for pair in pairs:
                grid.append((f"level{pair.block}-{n + 1}", pair.decode(pair.encode(photo[None]))[0]))
            style = [Style(photos[(n + 1) % len(photos)][None])]
            grid.append((f"result-{n + 1}", cascade.draw(photo[None], style, pairs, **told(StylizeControls()))[0]))
        return grid

    def _begun(self) -> tuple[int, ...]:
        """The levels up to the phase's, coarse to fine: the other decoders are still noise."""
        names = [phase.name for phase in self.phases()]
        count = names.index(self.phase) + 1 if self.phase else len(names)
        return tuple(sorted(self.config.levels[:count], reverse=True))


def tap_of(level: int) -> str:
    return f"relu{level}_1"


def told(controls: StylizeControls) -> dict[str, Any]:
    """What both ways to draw are told alike."""
    return {"alpha": controls.alpha, "eps": controls.eig_eps, "shrink": controls.cov_shrink}


METHOD = Method(
    slug="wct",
    title="Universal Style Transfer: Whitening and Colouring Transforms",
    paper="arXiv:1705.08086",
    tasks={"train": Train},
)
