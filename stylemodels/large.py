"""Picture files of any size, drawn in tiles from file to file: memory grows with the tile and not with the picture.

The content is decoded in strips into a raster on disk, padded there, drawn from raster to raster, and written row by
row. What formats themselves hold whole in memory, a progressive JPEG's coefficients, an interlaced PNG, any WebP,
stays as large as it is. Masks and label maps are tensors over the picture, 4 and 8 bytes a pixel.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylemodels import png, vips
from stylemodels.images import (
    MAX_PIXELS,
    QUALITY,
    TRANSPOSED_ORIENTATIONS,
    check_aspect,
    check_output,
    load_picture,
    peek,
    save_picture,
    to_levels,
    upright,
)
from stylemodels.maps import save_maps
from stylemodels.method import Style
from stylemodels.options import Options, Told
from stylemodels.png import COMPRESSION, Bits, Levels
from stylemodels.prepare import (
    Size,
    check_in_memory,
    drawn_size,
    padded,
    padded_size,
    prepared_styles,
    reflected,
    scaled,
    tile_of,
)
from stylemodels.profiles import srgb_profile
from stylemodels.raster import NUMPY_TYPES, Raster
from stylemodels.stylize import Model, Report, finished
from stylemodels.vips import STRIP_PX
from stylemodels.whitening import Moments

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What methods put beside the rasters meanwhile: features between two passes (256 channels at a quarter of the size).
FEATURE_BYTES_PER_PX = 64


class Source(NamedTuple):
    """A content file and how it is drawn."""

    path: Path
    format: str
    orientation: int  # EXIF's, 1 to 8
    given: Size  # upright
    drawn: Size


def stylize_file(
    model: Model,
    content: Path,
    out: Path,
    styles: Sequence[Style] = (),
    controls: Mapping[str, Any] | None = None,
    *,
    init_image: Path | None = None,
    maps: Path | None = None,
    report: Report | None = None,
    bits: Bits = 8,
    quality: int = QUALITY,
) -> Size:
    """Draw one file into another. Returns the size of the result.

    content: JPEG, PNG, WebP or TIFF of 8 or 16 bits a channel. Where `tile` says so, or it has more than 16.8 million
        pixels and the method can, it is drawn in tiles, through rasters in a temporary folder beside `out`; else whole.
        Tiles and TIFF need libvips.
    out: its suffix says the format: .png, .jpg, .jpeg, .webp (sides up to 16,383 px), .tif, .tiff. It appears when it
        is whole. bits: a channel's, 8 or 16 (PNG and TIFF). quality: of JPEG and WebP.
    styles, controls, report: as `Model.stylize` takes them. init_image: a file with what it starts from.
    maps: a folder for what the method shows besides, each as PNG. Neither goes with tiles.

    Raises ValueError that names the file, style or control that cannot be used, or says that the disk is too full.
    """
    told = model.told(controls)
    source = described(content, told.options)
    suffix = out.suffix.lower()
    try:
        check_output(suffix, *source.drawn, bits=bits)
    except ValueError as error:
        raise ValueError(f"{out}: {error}") from error
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        part = Path(name) / f"result{suffix}"
        if tile := tile_of(model.task, told.options, source.drawn):
            if init_image is not None or maps is not None:
                raise ValueError(f"{content}: is drawn in tiles, where there are no maps and no picture to start from")
            check_disk(Path(name), source.drawn, told.options, bits)
            draw_on_disk(model, source, part, styles, told, tile, report=report, bits=bits, quality=quality)
        else:
            start = None if init_image is None else load_picture(init_image)
            picture = model.draw(loaded(source), styles, told, given=source.given, init_image=start, report=report)
            if picture.image is None:
                raise ValueError(f"a model of {model.name} draws no pictures")
            save_picture(picture.image, part, bits=bits, quality=quality)
            if maps is not None:
                save_maps(picture.maps, maps, out.stem)
        part.replace(out)
    return source.drawn


def described(path: Path, options: Options) -> Source:
    """What a content file's header says. Raises ValueError that begins with the path."""
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in TIFF_STARTS
        if is_tiff:
            image = vips.opened(path, "TIFF")
            format, orientation = "TIFF", vips.orientation(image)
            turned = orientation in TRANSPOSED_ORIENTATIONS
            given = Size(image.width, image.height) if turned else Size(image.height, image.width)
        else:
            info, orientation = peek(path)
            format, given = info.format, Size(info.height, info.width)
        check_aspect(given.width, given.height)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Source(path, format, orientation, given, drawn_size(given, options))


def loaded(source: Source) -> Tensor:
    """The content (1, 3, H, W) in memory, at the size that it is drawn at."""
    check_in_memory(source.drawn)
    if source.format != "TIFF" and source.given.pixels <= MAX_PIXELS:
        return scaled(load_picture(source.path), source.drawn)
    content = torch.empty(1, 3, *source.drawn)
    for top, left, piece in upright_strips(source):
        height, width = piece.shape[-2:]
        content[..., top : top + height, left : left + width] = piece
    return content


def upright_strips(source: Source) -> Iterator[tuple[int, int, Tensor]]:
    """The content at its drawn size, in strips (1, 3, h, w) from the stored picture's top to its bottom.

    Each is turned as EXIF says and comes with its place, top and left, in the upright picture. Raises ValueError.
    """
    try:
        image = vips.in_srgb(vips.opened(source.path, source.format))
        height, width = source.drawn
        if source.orientation in TRANSPOSED_ORIENTATIONS:
            height, width = width, height
        for top, strip in vips.strips(vips.resized(image, height, width)):
            piece = upright(strip[0], source.orientation)[None]
            far = height - top - strip.shape[2]
            if source.orientation in TRANSPOSED_ORIENTATIONS:
                yield 0, far if source.orientation in (6, 7) else top, piece
            else:
                yield far if source.orientation in (3, 4) else top, 0, piece
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error


def check_disk(folder: Path, size: Size, options: Options, bits: Bits) -> None:
    """Raise ValueError where rasters, a method's features and the result would not fit on the disk of `folder`."""
    rasters = 3 if options.passes == 1 else 4  # content, result, the method's own; between passes one more
    bytes_per_px = rasters * 3 * NUMPY_TYPES[options.storage]().itemsize + FEATURE_BYTES_PER_PX + 2 * 3 * bits // 8
    needed, free = size.pixels * bytes_per_px, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder.parent}: {size} need up to {needed / 2**30:.1f} GiB on this disk while they are drawn, "
            f"{free / 2**30:.1f} GiB are free: choose a smaller size, storage float16, or another disk"
        )


def draw_on_disk(
    model: Model,
    source: Source,
    out: Path,
    styles: Sequence[Style],
    told: Told,
    tile: int,
    *,
    report: Report | None,
    bits: Bits,
    quality: int,
) -> None:
    """From file to file in tiles; everything else that it writes lies in the folder of `out`."""
    vips.check_available("drawing in tiles from file to file takes")
    options, folder = told.options, out.parent
    canvas = padded_size(type(model.task), source.drawn)
    content = Raster(folder / "content.raster", *canvas, options.storage)
    for top, left, piece in upright_strips(source):
        content.write(top, left, piece)
    colours = colours_of(content, source.drawn) if options.preserve_color == "coral" else None
    pad_on_disk(content, source.drawn)
    ready = prepared_styles(model.task, styles, options, given=source.given, drawn=source.drawn, colours=colours)
    with model.reporting(report, options.passes) as passes:
        result = model.draw_tiles(content, folder, ready, told, passes, tile)
        write_rows(result, content, source.drawn, out, options, bits=bits, quality=quality)


def colours_of(content: Raster, size: Size) -> Moments:
    """The moments of all colours of a picture."""
    moments = Moments()
    for top, height in rows_of(size):
        moments.add(content.read(top, 0, height, size.width))
    return moments


def pad_on_disk(content: Raster, size: Size) -> None:
    """Continue the picture of `size` by reflection, to the right and below, as `prepare.padded` does."""
    if content.width > size.width:
        for top, height in rows_of(size):
            strip = content.read(top, 0, height, size.width)
            content.write(top, size.width, padded(strip, Size(height, content.width))[..., size.width :])
    for row, like in enumerate(reflected(size.height, content.height).tolist()):
        if row >= size.height:
            content.write(row, 0, content.read(like, 0, 1, content.width))


def rows_of(size: Size) -> Iterator[tuple[int, int]]:
    """Strips that cover a picture: top and height of each."""
    step = max(1, STRIP_PX // size.width)
    for top in range(0, size.height, step):
        yield top, min(step, size.height - top)


def write_rows(
    result: Raster, content: Raster, size: Size, out: Path, options: Options, *, bits: Bits, quality: int
) -> None:
    """The result without its padding as a file, row by row: as a PNG, from which libvips makes the other formats."""

    def levels() -> Iterator[Levels]:
        for top, height in rows_of(size):
            drawn = result.read(top, 0, height, size.width)
            picture = finished(drawn, content.read(top, 0, height, size.width), options)
            yield to_levels(picture, bits)

    is_png = out.suffix == ".png"
    path = out if is_png else out.with_suffix(".png")
    with path.open("wb") as file:
        png.write(file, *size, bits, levels(), srgb_profile(), COMPRESSION if is_png else 0)
    if not is_png:
        vips.save(vips.opened(path, "PNG"), out, profile=srgb_profile(), quality=quality)
