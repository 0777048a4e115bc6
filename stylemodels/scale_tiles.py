"""Pictures drawn in tiles by networks that work at several scales at once.

All scales of a tile are packed into one map of the coarsest scale's cells, each with all that lies in it, so that
`tiles.py` can treat them as it treats the features of a single layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from stylemodels.method import Style
from stylemodels.raster import Readable
from stylemodels.scales import JointMoments, Mode, Scales, Statistics, groups
from stylemodels.tiles import Halos, Level, Place, Report, cells_of, encoded

# Number of scales -> how far VGG-16 up to the last convolution of as many blocks looks beyond a tile (pixels), and its
# mirror (cells of the coarsest scale, one of them for bilinear up-sampling); rounded up to whole cells.
HALOS: Mapping[int, Halos] = {3: Halos(20, 6), 4: Halos(48, 7)}


def level_of_scales(
    encode: Callable[[Tensor], Scales], decode: Callable[[Scales], Tensor], widths: Sequence[int]
) -> Level:
    """Encoder and decoder between pictures and packed scales. widths: channels of each scale, fine to coarse."""
    halos = HALOS[len(widths)]
    return Level(
        lambda images: packed(encode(images)),
        lambda values: decode(unpacked(values, widths)),
        len(widths),
        halos.encode_px,
        halos.decode_cells,
    )


def tiled_statistics(
    source: Readable, level: Level, widths: Sequence[int], mode: Mode, *, tile: int, report: Report | None = None
) -> list[Statistics]:
    """Of each group of scales of a whole picture, with nearest neighbours; as in one piece but for rounding.

    What does not fill a cell counts for nothing. tile: pixels, a multiple of 16.
    """
    source = Whole(source, level.cell)
    found = [JointMoments() for _ in groups(widths, mode)]
    places = list(cells_of(source, level, tile))
    for done, place in enumerate(places, start=1):
        scales = unpacked(encoded(source, level, place), widths)
        for moments, group in zip(found, groups(scales, mode), strict=True):
            moments.add(group)
        if report is not None:
            report(done / len(places))
    return [moments.statistics for moments in found]


class Whole:
    """A readable picture without what does not fill a cell at its right and lower end."""

    def __init__(self, source: Readable, cell: int) -> None:
        self.height, self.width = source.height // cell * cell, source.width // cell * cell
        self.read = source.read


def style_at(style: Style, place: Place) -> Style:
    """A style with the part of its mask over a rectangle of pixels."""
    return style if style.mask is None else replace(style, mask=place.of(style.mask))


def packed(scales: Scales) -> Tensor:
    """All scales as one map (N, sum of 4^(n - i) C_i, h, w) of the coarsest one's size, a cell's values together."""
    deepest = len(scales) - 1
    return torch.cat([pixel_unshuffle(f, 1 << (deepest - place)) for place, f in enumerate(scales)], 1)


def unpacked(values: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """What `packed` was made of. widths: channels of each scale."""
    factors = [1 << (len(widths) - 1 - place) for place in range(len(widths))]
    parts = torch.split(values, [width * factor**2 for width, factor in zip(widths, factors, strict=True)], 1)
    return [pixel_shuffle(part, factor) for part, factor in zip(parts, factors, strict=True)]
