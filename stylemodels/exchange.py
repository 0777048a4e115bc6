"""AdaIN between an encoder and its decoder, of whole pictures and by tiles.

Source: Huang & Belongie 2017 (arXiv:1703.06868), equations 8, 14 and 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from stylemodels import cascade, tiles
from stylemodels.cascade import STYLE_TILE_PX, Pair
from stylemodels.features import adain
from stylemodels.method import Style
from stylemodels.mixing import mixed
from stylemodels.raster import Raster
from stylemodels.tiles import Report
from stylemodels.whitening import adain_map


class AdaINForm(nn.Module):
    """Encoder, exchange of statistics and decoder as one module of (content, style), at alpha 1."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        image: Tensor = self.decoder(adain(self.encoder(content), self.encoder(style)))
        return image


@torch.inference_mode()
def draw(content: Tensor, styles: Sequence[Style], pair: Pair, *, alpha: float) -> Tensor:
    """`content` (1, 3, H, W), sides multiples of 16, in the mixture of `styles`. Not clamped."""
    own = pair.encode(content)
    swapped = mixed([adain(own, pair.encode(style.image)) for style in styles], styles)
    return pair.decode(own.lerp(swapped, alpha))


def draw_tiles(
    source: Raster,
    target: Raster,
    styles: Sequence[Style],
    pair: Pair,
    *,
    alpha: float,
    tile: int,
    report: Report,
) -> None:
    """As `draw`, from one raster into another as large, in tiles of `tile` pixels, a multiple of 16."""
    level = tiles.level_of(*pair)
    own = tiles.moments(source, level, tile=tile, report=lambda share: report(share / 2))
    of_styles = cascade.style_moments(styles, level, STYLE_TILE_PX)
    maps = [adain_map(own, of_style).blended(alpha) for of_style in of_styles]
    change = partial(cascade.changed, maps=maps, styles=styles, cell=level.cell)
    tiles.draw(source, target, level, change, tile=tile, report=lambda share: report((1 + share) / 2))
