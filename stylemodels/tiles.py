"""Pictures of any size drawn by tiles, equal to the whole frame: encode, change every position affinely, decode.

What a method must know of the whole picture are statistics of its features, so two passes suffice: the first encodes
every tile for them, the second changes and decodes. A tile is encoded and decoded with a halo, as wide as the
network looks, that is cut off again; only where the picture ends does it end too, so reflection happens there alone.
Memory grows with the tile, not with the picture.
Source: Wang et al. 2020 (arXiv:2003.08436) for what is global; the halos follow from the layouts of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from stylemodels.raster import Raster, Readable
from stylemodels.whitening import Moments

Report: TypeAlias = Callable[[float], None]  # told which share of a pass is done, 0 to 1
TILE_MULTIPLE_PX = 16


class Place(NamedTuple):
    """A rectangle of a picture (pixels) or of a feature map (cells)."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, factor: int) -> Place:
        """The same rectangle in units `factor` times finer."""
        return Place(self.top * factor, self.left * factor, self.height * factor, self.width * factor)

    def grown(self, by: int, height: int, width: int) -> Place:
        """With `by` more on every side, as far as a picture of `height` x `width` goes."""
        top, left = max(self.top - by, 0), max(self.left - by, 0)
        bottom, right = min(self.top + self.height + by, height), min(self.left + self.width + by, width)
        return Place(top, left, bottom - top, right - left)

    def inside(self, outer: Place) -> Place:
        """The same rectangle, counted from the corner of `outer`."""
        return Place(self.top - outer.top, self.left - outer.left, self.height, self.width)

    def of(self, pictures: Tensor) -> Tensor:
        """The rectangle of `pictures` (..., H, W)."""
        return pictures[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Halos(NamedTuple):
    """How far networks look beyond a tile."""

    encode_px: int
    decode_cells: int


# block at whose first ReLU the network is cut -> halos of VGG-19's layout with 3 x 3 convolutions, rounded up to cells
HALOS: Mapping[int, Halos] = {1: Halos(1, 1), 2: Halos(4, 2), 3: Halos(12, 3), 4: Halos(32, 4), 5: Halos(80, 5)}


@dataclass(frozen=True)
class Level:
    """An encoder up to relu{block}_1 and what decodes its features."""

    encode: Callable[[Tensor], Tensor]  # (1, 3, H, W) -> (1, C, H // cell, W // cell)
    decode: Callable[[Tensor], Tensor]  # (1, C, h, w) -> (1, 3, cell * h, cell * w)
    block: int
    encode_halo: int  # pixels, a multiple of `cell`
    decode_halo: int  # cells

    @property
    def cell(self) -> int:
        """Pixels to one position of the features, along each side."""
        return 1 << (self.block - 1)


def level_of(encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], block: int) -> Level:
    """The level of an encoder in VGG-19's layout and its mirrored decoder."""
    return Level(encode, decode, block, HALOS[block].encode_px, HALOS[block].decode_cells)


def tiles(height: int, width: int, tile: int, multiple: int) -> Iterator[Place]:
    """Rectangles that cover `height` x `width` without overlap, none longer than `tile`, row by row, of even size.

    multiple: all corners are multiples of it, but for the ends of the picture; `tile` is one too.
    """
    rows, columns = (even_step(side, tile, multiple) for side in (height, width))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Place(top, left, min(rows, height - top), min(columns, width - left))


def even_step(side: int, tile: int, multiple: int) -> int:
    """The length of as many tiles as `side` needs: no narrow remainder at the end that would be mostly halo."""
    count = -(-side // tile)
    return -(-side // (count * multiple)) * multiple


def encoded(source: Readable, level: Level, place: Place) -> Tensor:
    """The features (1, C, h, w) at a rectangle of cells, as the whole picture has them there."""
    own = place.scaled(level.cell)
    around = own.grown(level.encode_halo, source.height, source.width)
    features = level.encode(source.read(*around))
    offset = own.inside(around)
    return Place(offset.top // level.cell, offset.left // level.cell, place.height, place.width).of(features)


def feature_tiles(source: Readable, level: Level, *, tile: int) -> Iterator[tuple[Place, Tensor]]:
    """Every tile's own features (1, C, h, w), without halo, and the rectangle of cells where they belong.

    source: sides of any length from two cells; as in the whole frame, what does not fill a cell has none.
    tile: pixels, a multiple of 16. Raises ValueError for another, and for smaller pictures.
    """
    check_tile(tile)
    for place in cells_of(source, level, tile):
        yield place, encoded(source, level, place)


@torch.inference_mode()
def moments(
    source: Readable, level: Level, *, tile: int, keep: Raster | None = None, report: Report | None = None
) -> Moments:
    """First pass: mean and covariance of the features of a whole picture.

    keep: where to put the features for the second pass, made by `room_for_features`.
    """
    found = Moments()
    count = sum(1 for _ in cells_of(source, level, tile))
    for done, (place, features) in enumerate(feature_tiles(source, level, tile=tile), start=1):
        found.add(features)
        if keep is not None:
            keep.write(place.top, place.left, features)
        if report is not None:
            report(done / count)
    return found


@torch.inference_mode()
def draw(
    source: Readable,
    target: Raster,
    level: Level,
    change: Callable[[Tensor, Place], Tensor],
    *,
    tile: int,
    kept: Raster | None = None,
    report: Report | None = None,
) -> None:
    """Second pass: encode, change, decode, from one picture into another as large.

    change: features (1, C, h, w) and the cells where they lie -> the same shape; each position for itself.
    kept: the features that the first pass kept, so that nothing is encoded again.
    tile: pixels, a multiple of 16. Raises ValueError for another, for sides that are no multiples of a cell, and when
    `target` is not as large as `source`.
    """
    check_tile(tile)
    check_sides(source, target, level)
    places = list(cells_of(source, level, tile))
    for done, place in enumerate(places, start=1):
        around = place.grown(level.decode_halo, source.height // level.cell, source.width // level.cell)
        features = encoded(source, level, around) if kept is None else kept.read(*around)
        picture = level.decode(change(features, around))
        own = place.scaled(level.cell)
        target.write(own.top, own.left, place.inside(around).scaled(level.cell).of(picture))
        if report is not None:
            report(done / len(places))


@torch.inference_mode()
def room_for_features(source: Readable, level: Level, path: Path) -> Raster:
    """A raster for the features of all of `source`, float32: C / cell^2 times 4 bytes for each pixel."""
    channels = level.encode(source.read(0, 0, 2 * level.cell, 2 * level.cell)).shape[1]
    return Raster(path, source.height // level.cell, source.width // level.cell, channels=channels)


def cells_of(source: Readable, level: Level, tile: int) -> Iterator[Place]:
    """The tiles of a picture in cells of a level. Raises ValueError where reflection finds no second cell."""
    if (shorter := min(source.height, source.width)) < 2 * level.cell:
        raise ValueError(f"a picture's shorter side must be at least {2 * level.cell} px, this one's is {shorter}")
    return tiles(source.height // level.cell, source.width // level.cell, tile // level.cell, 1)


def check_tile(tile: int) -> None:
    if tile < TILE_MULTIPLE_PX or tile % TILE_MULTIPLE_PX:
        raise ValueError(f"tile: {tile} px were given, it must be a multiple of {TILE_MULTIPLE_PX}")


def check_sides(source: Readable, target: Raster, level: Level) -> None:
    sides = (source.height, source.width)
    if sides != (target.height, target.width):
        raise ValueError(f"target: {target.height} x {target.width} px for a picture of {sides[0]} x {sides[1]}")
    if source is target:
        raise ValueError("target: a picture cannot be drawn over itself, its tiles still need what lies around them")
    if sides[0] % level.cell or sides[1] % level.cell:
        raise ValueError(f"source: sides of {sides[0]} x {sides[1]} px are no multiples of {level.cell}")
