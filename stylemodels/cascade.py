"""Whitening and colouring from coarse to fine: each level's picture is the next one's content.

    x = content;  for each pair: f = encode(x);  x = decode(alpha (A f + b) + (1 - alpha) f)

with A and b from the moments of f and of the style's features at that level. `draw` has the whole picture in memory,
`draw_tiles` goes by tiles from one raster to another and gives the same but for rounding.
Source: Li et al. 2017 (arXiv:1705.08086), section 3.3; Wang et al. 2020 (arXiv:2003.08436).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from stylemodels import tiles
from stylemodels.images import resize
from stylemodels.method import Style
from stylemodels.mixing import share_of
from stylemodels.raster import Loaded, Raster
from stylemodels.tiles import Level, Place, Report, level_of
from stylemodels.whitening import AffineMap, Moments, wct_map

Stats: TypeAlias = Literal["exact", "thumbnail"]

STYLE_TILE_PX = 1024  # beside a whole picture, styles are encoded by tiles of this side
KEPT_FROM_BLOCK = 3  # from here on features are small enough to keep between the passes, and slow enough to encode
# multiply-adds for each pixel of an encoder cut at this block, relatively: for reports of how much is done
COSTS: Mapping[int, int] = {1: 1, 2: 4, 3: 7, 4: 15, 5: 23}


class Pair(NamedTuple):
    """An encoder up to relu{block}_1 and its decoder, both in VGG-19's layout."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    block: int


class Recipe(NamedTuple):
    """How far a picture goes towards its styles."""

    alpha: float  # 0 decodes the content's own features, 1 takes the style
    eps: float  # with `shrink` as in `whitening.wct_map`
    shrink: float

    def maps(self, own: Moments, styles: Sequence[Moments]) -> list[AffineMap]:
        """What takes the content's features to each style."""
        return [wct_map(own, style, eps=self.eps, shrink=self.shrink).blended(self.alpha) for style in styles]


class Drawn(NamedTuple):
    """A picture, and for every pair the maps, one for each style, that made it."""

    picture: Tensor
    maps: list[list[AffineMap]]


def draw(
    content: Tensor,
    styles: Sequence[Style],
    pairs: Sequence[Pair],
    *,
    alpha: float,
    eps: float,
    shrink: float,
    report: Report | None = None,
) -> Tensor:
    """`content` (1, 3, H, W), sides multiples of 16, through all `pairs` in their order. Not clamped.

    styles: weights sum to 1, pictures of any size from 32 px. alpha, eps, shrink: see `Recipe`.
    """
    return draw_whole(content, styles, pairs, Recipe(alpha, eps, shrink), report).picture


@torch.inference_mode()
def draw_tiles(
    source: Raster,
    target: Raster,
    styles: Sequence[Style],
    pairs: Sequence[Pair],
    *,
    alpha: float,
    eps: float,
    shrink: float,
    tile: int,
    report: Report | None = None,
    stats: Stats = "exact",
    thumb_size: int = 1024,
) -> None:
    """As `draw`, from one raster into another as large, in tiles of `tile` pixels, a multiple of 16.

    Meanwhile there lie beside the target's file a raster as large and the features of one level: 4 C / cell^2 bytes
    for each pixel, 16 where block 3 has 64 channels.
    stats: "exact" takes the content's moments from the whole picture, in a pass of its own; "thumbnail" from the
    cascade over a copy whose shorter side is `thumb_size`: faster, with broader strokes, but not what `draw` gives.
    Source: Chen et al. 2021 (arXiv:2103.11784) for the thumbnail.
    """
    tiles.check_tile(tile)
    recipe = Recipe(alpha, eps, shrink)
    known: Sequence[list[AffineMap] | None] = [None] * len(pairs)
    if stats == "thumbnail" and min(source.height, source.width) > thumb_size:
        small = thumbnail(source, thumb_size, tile=tile)
        known = draw_whole(small, masks_over(small, styles), pairs, recipe, None).maps
    with TemporaryDirectory(dir=target.path.parent, prefix=f"{target.path.name}.") as folder:
        spare = Raster(Path(folder) / "spare", source.height, source.width, target.dtype)
        for index, (pair, (first, second)) in enumerate(zip(pairs, passes(pairs, report), strict=True)):
            # in turns, so that the last one draws into the target
            goal = target if (len(pairs) - index) % 2 else spare
            level, maps, kept = level_of(*pair), known[index], None
            if maps is None and alpha > 0:
                if pair.block >= KEPT_FROM_BLOCK:
                    kept = tiles.room_for_features(source, level, Path(folder) / "features")
                own = tiles.moments(source, level, tile=tile, keep=kept, report=first)
                maps = recipe.maps(own, style_moments(styles, level, tile))
            change = partial(changed, maps=maps or [], styles=styles, cell=level.cell)
            tiles.draw(source, goal, level, change, tile=tile, kept=kept, report=second)
            source = goal


@torch.inference_mode()
def draw_whole(
    content: Tensor, styles: Sequence[Style], pairs: Sequence[Pair], recipe: Recipe, report: Report | None
) -> Drawn:
    """What `draw` does, with the maps."""
    every: list[list[AffineMap]] = []
    for pair, (_, done) in zip(pairs, passes(pairs, report), strict=True):
        features, level = pair.encode(content), level_of(*pair)
        maps = []
        if recipe.alpha > 0:
            maps = recipe.maps(Moments.of(features), style_moments(styles, level, STYLE_TILE_PX))
        place = Place(0, 0, *features.shape[-2:])
        content = pair.decode(changed(features, place, maps=maps, styles=styles, cell=level.cell))
        every.append(maps)
        done(1.0)
    return Drawn(content, every)


def style_moments(styles: Sequence[Style], level: Level, tile: int) -> list[Moments]:
    """Moments of each style's features at a level."""
    return [tiles.moments(Loaded(style.image), level, tile=tile) for style in styles]


def changed(features: Tensor, place: Place, *, maps: Sequence[AffineMap], styles: Sequence[Style], cell: int) -> Tensor:
    """Content features at a rectangle of cells (1, C, h, w), mapped to the mixture of styles.

    maps: one for each style, or none, which changes nothing. By weight, the maps themselves are mixed; by mask, what
    they give at each cell.
    """
    if not maps:
        return features
    if styles[0].mask is None:
        return mixed_map(maps, [style.weight for style in styles])(features)
    total = torch.zeros_like(features)
    for affine, style in zip(maps, styles, strict=True):
        assert style.mask is not None, "all styles have a mask or none has"
        here = replace(style, mask=place.scaled(cell).of(style.mask))
        total += share_of(here, features) * affine(features)
    return total


def mixed_map(maps: Sequence[AffineMap], weights: Sequence[float]) -> AffineMap:
    """The map to the convex combination of what `maps` give."""
    if len(maps) == 1:
        return maps[0]
    matrices = [weight * affine.matrix for affine, weight in zip(maps, weights, strict=True)]
    biases = [weight * affine.bias for affine, weight in zip(maps, weights, strict=True)]
    return AffineMap(torch.stack(matrices).sum(0), torch.stack(biases).sum(0))


def masks_over(content: Tensor, styles: Sequence[Style]) -> list[Style]:
    """`styles` with their masks averaged to the size of `content`."""
    size = content.shape[-2:]
    return [
        style if style.mask is None else replace(style, mask=interpolate(style.mask, size=size, mode="area"))
        for style in styles
    ]


def thumbnail(source: Raster, shorter_px: int, *, tile: int) -> Tensor:
    """A copy (1, 3, h, w) of a larger picture in [0, 1] with `shorter_px`, a multiple of 16, as its shorter side.

    The longer one is rounded to a multiple of 16. Read by tiles: averaged over whole squares first, then resized.
    """
    shorter = min(source.height, source.width)
    factor = shorter // shorter_px
    rows, columns = source.height // factor, source.width // factor
    coarse = torch.empty(1, 3, rows, columns)
    for place in tiles.tiles(rows, columns, max(tile // factor, 1), 1):
        place.of(coarse).copy_(avg_pool2d(source.read(*place.scaled(factor)), factor))
    height, width = (16 * round(side * shorter_px / shorter / 16) for side in (source.height, source.width))
    return resize(coarse, height, width)


def passes(pairs: Sequence[Pair], report: Report | None) -> Iterator[tuple[Report, Report]]:
    """For each pair two reports, of its first and of its second pass, in shares of the whole cascade."""
    total = sum(COSTS[pair.block] for pair in pairs)
    done = 0
    for pair in pairs:
        middle, end = done + COSTS[pair.block] / 2, done + COSTS[pair.block]
        yield part_of(report, done / total, middle / total), part_of(report, middle / total, end / total)
        done = end


def part_of(report: Report | None, start: float, end: float) -> Report:
    """A report of the stretch from `start` to `end`."""

    def tell(share: float) -> None:
        if report is not None:
            report(start + (end - start) * share)

    return tell
