"""What lies between people's pictures and a task: checks, sizes, padding, and who draws where.

A drawing's content is continued by reflection until the task can take it; a style picture only if it is tiny.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.colour import coral_map
from stylemodels.images import MAX_PIXELS, resize, scaled_to_shorter
from stylemodels.method import Regions, Style, Task
from stylemodels.options import Options, draws_tiles
from stylemodels.whitening import Moments

MIN_SIDE_PX = 16
TILE_PX = 1024
TILE_ABOVE_PX = 1 << 24  # above 4096 x 4096 pixels a picture is drawn in tiles, where the method can
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Size(NamedTuple):
    """Of a picture, in pixels, in code's order."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} px"

    @property
    def pixels(self) -> int:
        return self.height * self.width


def size_of(image: Tensor) -> Size:
    return Size(image.shape[-2], image.shape[-1])


def check_picture(name: str, image: Tensor) -> None:
    """Raise ValueError that begins with `name` unless `image` is (1, 3, H, W), floating, of finite numbers."""
    if image.ndim != 4 or image.shape[:2] != (1, 3) or 0 in image.shape:
        raise ValueError(f"{name}: a picture has the shape (1, 3, H, W), not {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"{name}: a picture holds floating point numbers in [0, 1], not {image.dtype}")
    if not image.isfinite().all():
        raise ValueError(f"{name}: the picture contains values that are not numbers")


def drawn_size(given: Size, options: Options) -> Size:
    """How large a content picture of the size `given` is drawn. Raises ValueError where a side gets too short."""
    width, height = scaled_to_shorter(given.width, given.height, options.size or min(given))
    drawn = Size(height, width)
    if min(drawn) < MIN_SIDE_PX:
        field = "size" if options.size else "content"
        raise ValueError(f"{field}: a picture of {drawn} was asked for, sides must be at least {MIN_SIDE_PX} px")
    return drawn


def scaled(image: Tensor, size: Size) -> Tensor:
    """(1, 3, H, W) in [0, 1] brought to `size`; untouched where it has it."""
    return image if size_of(image) == size else resize(image, *size)


def padded_size(task_class: type[Task], size: Size) -> Size:
    """Multiples of the task's, at least two of them and its `least_px`."""
    multiple, least = task_class.multiple, least_side(task_class)
    height, width = (-(-max(side, least) // multiple) * multiple for side in size)
    return Size(height, width)


def least_side(task_class: type[Task]) -> int:
    """The shortest side that the task can take, pixels."""
    return max(2 * task_class.multiple, task_class.least_px)


def reflected(side: int, padded: int) -> Tensor:
    """Where each of `padded` positions of a row of `side` pixels takes its value: int64 indices.

    The row goes to and fro between its ends, without repeating them, as often as it takes.
    """
    if side == 1:
        return torch.zeros(padded, dtype=torch.int64)
    period = 2 * (side - 1)
    index = torch.arange(padded) % period
    return torch.minimum(index, period - index)


def padded(image: Tensor, size: Size) -> Tensor:
    """(1, C, H, W) continued by reflection to the right and below."""
    if size_of(image) == size:
        return image
    rows, columns = reflected(image.shape[-2], size.height), reflected(image.shape[-1], size.width)
    return image[..., rows.to(image.device), :][..., columns.to(image.device)]


def tile_of(task: Task, options: Options, size: Size) -> int:
    """The side of the tiles that a picture of `size` is drawn in; 0: it is drawn whole.

    Raises ValueError where it must be drawn whole and would not fit into memory.
    """
    if options.tile:
        return options.tile
    if draws_tiles(type(task)) and size.pixels > TILE_ABOVE_PX:
        return TILE_PX
    if size.pixels > (most := whole_limit_px(type(task))):
        raise ValueError(
            f"content: {size} would be drawn, but this method draws whole pictures only and about "
            f"{most / 1e6:.0f} million pixels fit into this machine's memory: choose a smaller size"
        )
    return 0


def check_in_memory(size: Size) -> None:
    """Raise ValueError for a picture that is too large to be held as a tensor, however it is drawn."""
    if size.pixels > MAX_PIXELS:
        raise ValueError(f"size: {size} would be drawn, the most are {MAX_PIXELS / 1e6:.0f} million pixels")


def whole_limit_px(task_class: type[Task]) -> int:
    """How many pixels a whole drawing of a method may have on this machine, or in this container."""
    bytes_here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP_LIMIT.is_file() and (limit := CGROUP_LIMIT.read_text().strip()).isdigit():
        bytes_here = min(bytes_here, int(limit))
    return bytes_here // task_class.bytes_per_px


def prepared_styles(
    task: Task, styles: Sequence[Style], options: Options, *, given: Size, drawn: Size, colours: Moments | None
) -> list[Style]:
    """Styles as `Task.stylize` wants them, for a content of the size `given` that is drawn at `drawn`.

    colours: the moments of the content's colours, for coral. Raises ValueError that says which style is wrong how.
    """
    check_styles(task, styles, given)
    canvas = padded_size(type(task), drawn)
    weights = normalised([style.weight for style in styles])
    ready = []
    for style, weight in zip(styles, weights, strict=True):
        image, regions = style_picture(task, style, options)
        if colours is not None:
            image = coral_map(Moments.of(image), colours)(image)
        if regions is not None:
            content_labels = nearest(regions.content, drawn)
            regions = replace(regions, content=padded(content_labels, canvas))
        mask = None if style.mask is None else padded(scaled_mask(style.mask.float(), drawn), canvas)
        ready.append(Style(image, weight, mask, regions))
    return share_out(ready)


def check_styles(task: Task, styles: Sequence[Style], given: Size) -> None:
    """Raise ValueError for the wrong number of styles, and for the first that is wrong."""
    fewest, most = task.styles
    if not fewest <= len(styles) <= most:
        allowed = "none: the model is the style" if most == 0 else f"{fewest} to {most}"
        raise ValueError(f"styles: {len(styles)} pictures were given, this model takes {allowed}")
    for number, style in enumerate(styles, start=1):
        name = f"style {number}"
        check_picture(name, style.image)
        if style.mask is not None:
            check_mask(f"{name}: mask", style.mask, task, given)
        if style.regions is not None:
            check_regions(f"{name}: regions", style, task, given)


def check_mask(name: str, mask: Tensor, task: Task, given: Size) -> None:
    if not task.masks:
        raise ValueError(f"{name}: one was given, but this model takes none")
    if mask.ndim != 4 or mask.shape[:2] != (1, 1) or size_of(mask) != given:
        raise ValueError(f"{name}: shape {tuple(mask.shape)} was given, over the content it is {(1, 1, *given)}")
    if not mask.isfinite().all() or mask.min() < 0 or mask.max() > 1:
        raise ValueError(f"{name}: values must be numbers from 0 to 1")


def check_regions(name: str, style: Style, task: Task, given: Size) -> None:
    if not task.regions:
        raise ValueError(f"{name}: label maps were given, but this model takes none")
    assert style.regions is not None
    for over, labels, size in (
        ("content", style.regions.content, given),
        ("style", style.regions.style, size_of(style.image)),
    ):
        if labels.ndim != 4 or labels.shape[:2] != (1, 1) or size_of(labels) != size:
            raise ValueError(f"{name}: shape {tuple(labels.shape)} was given, over the {over} it is {(1, 1, *size)}")
        if labels.dtype != torch.int64:
            raise ValueError(f"{name}: labels are int64, not {labels.dtype}")


def style_picture(task: Task, style: Style, options: Options) -> tuple[Tensor, Regions | None]:
    """A style's picture and label maps at the size that was asked for.

    A smaller one than `least_side`, down to a single pixel, is continued by reflection: brush strokes keep their size,
    and a single pixel becomes an area of its colour. Larger pictures are not padded.
    """
    image, regions = style.image.float(), style.regions
    if options.style_size:
        width, height = scaled_to_shorter(image.shape[-1], image.shape[-2], options.style_size)
        size = Size(max(height, 1), max(width, 1))
        check_in_memory(size)
        image = scaled(image, size)
    least = least_side(type(task))
    usable = Size(max(image.shape[-2], least), max(image.shape[-1], least))
    if regions is not None:
        regions = replace(regions, style=padded(nearest(regions.style, size_of(image)), usable))
    return padded(image, usable), regions


def scaled_mask(mask: Tensor, size: Size) -> Tensor:
    """(1, 1, H, W) brought to `size`, still in [0, 1]."""
    if size_of(mask) == size:
        return mask
    return interpolate(mask, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def nearest(labels: Tensor, size: Size) -> Tensor:
    """A label map (1, 1, H, W) brought to `size`: each pixel takes the label under its middle."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp_(max=old - 1).to(labels.device)
        for new, old in zip(size, size_of(labels), strict=True)
    )
    return labels[..., rows, :][..., columns]


def share_out(styles: list[Style]) -> list[Style]:
    """If any style has a mask, all get one, and they sum to 1 at every pixel, the weights in them.

    A style without a mask has what the masks leave, 1 - their sum; styles that overlap share by mask times weight;
    where nobody has a share, all have theirs by weight.
    """
    masks = [style.mask for style in styles if style.mask is not None]
    if not masks:
        return styles
    left = (1 - torch.stack(masks).sum(0)).clamp_min(0)
    shares = torch.stack([style.weight * (left if style.mask is None else style.mask) for style in styles])
    weights = torch.tensor([style.weight for style in styles]).view(-1, 1, 1, 1, 1).to(shares)
    total = shares.sum(0)
    shares = torch.where(total > 0, shares / total.masked_fill(total == 0, 1), weights)
    return [replace(style, mask=share) for style, share in zip(styles, shares, strict=True)]


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum. Raises ValueError for a negative one, or when all are zero."""
    if not weights:
        return []
    total = fsum(weights)
    if min(weights) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"weights: {', '.join(map(str, weights))} were given, they must be at least 0 and not all 0")
    return [weight / total for weight in weights]
