"""Masks and label maps from files: which style goes where.

A mask is a gray picture over the content: white takes the style, black does not. A label map is a PNG whose distinct
colours, palette indices or gray levels are the labels; those of a content and a style picture are read as a pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stylemodels.images import BROKEN, MAX_PIXELS, encode_png, load_picture
from stylemodels.method import Regions

ONE_CHANNEL = {"1", "L", "P", "I", "I;16"}  # Pillow's modes
FIGURES = "figures.json"
MOST_LABELS = 256  # what has more colours is a photograph, or was scaled with smooth edges

Source: TypeAlias = Path | str | bytes


def load_mask(source: Source, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A gray picture, upright: (1, 1, H, W), float32 in [0, 1]; of a coloured one the mean of its channels.

    Raises ValueError as `images.load_picture` does.
    """
    return load_picture(source, max_pixels=max_pixels).mean(1, keepdim=True)


def save_maps(maps: Mapping[str, Tensor], folder: Path, stem: str) -> list[Path]:
    """Every map of a drawing as `{stem}-{name}.png` in `folder`, which is made, and the numbers of its series as
    `{stem}-figures.json`. Returns the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, data in encoded_maps(maps).items():
        files.append(folder / f"{stem}-{name}")
        files[-1].write_bytes(data)
    return files


def encoded_maps(maps: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Files by name: `NAME.png` of every map, a series of values (n,) as a curve; other shapes are left out.

    All series besides as numbers in one `figures.json`: {name: [values]}.
    """
    series = {name: map for name, map in maps.items() if map.ndim == 1}
    pictures = {name: curve(map) if name in series else map for name, map in maps.items()}
    files = {f"{name}.png": encode_png(map.expand(-1, 3, -1, -1)) for name, map in pictures.items() if map.ndim == 4}
    if series:
        figures = {name: values.tolist() for name, values in series.items()}
        files[FIGURES] = json.dumps(figures, indent=1).encode()
    return files


def curve(values: Tensor, *, height: int = 120, width: int = 240) -> Tensor:
    """Values (n,) from left to right, the smallest at the bottom, as a dark line on white: (1, 1, height, width)."""
    at = torch.linspace(0, max(len(values) - 1, 0), width).round().long()
    levels = values.float()[at]
    share = (levels - levels.min()) / (levels.max() - levels.min()).clamp_min(1e-12)
    rows = ((1 - share) * (height - 1)).round().long()
    before = torch.cat([rows[:1], rows[:-1]])
    row = torch.arange(height)[:, None]
    line = (row >= torch.minimum(rows, before)) & (row <= torch.maximum(rows, before))
    return 1.0 - 0.8 * line.float()[None, None]


def load_regions(content: Source, style: Source, *, max_pixels: int = MAX_PIXELS) -> Regions:
    """The label maps of a content and a style picture; the same colour, palette index or level is the same label.

    Indices or levels count where both pictures have them, colours otherwise. Raises ValueError that begins with
    `content_labels` or `style_labels` for what is no PNG, is too large, or has more than MOST_LABELS labels.
    """
    maps = {
        "content_labels": _opened("content_labels", content, max_pixels),
        "style_labels": _opened("style_labels", style, max_pixels),
    }
    modes = {picture.mode for picture in maps.values()}
    plain = len(modes) == 1 and modes <= ONE_CHANNEL
    codes = [_codes(name, picture, plain=plain) for name, picture in maps.items()]
    there = np.unique(np.concatenate([np.unique(each) for each in codes]))
    first, second = (torch.from_numpy(np.searchsorted(there, each))[None, None] for each in codes)
    return Regions(content=first, style=second)


def _opened(name: str, source: Source, max_pixels: int) -> Image.Image:
    """Raises ValueError that begins with `name`."""
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        picture = Image.open(BytesIO(data), formats=("PNG",))
        width, height = picture.size
        if width * height > max_pixels:
            raise ValueError(f"{width} x {height} px are more than {max_pixels / 1e6:.0f} million pixels")
        picture.load()
    except (Image.DecompressionBombError, *BROKEN) as error:
        raise ValueError(f"{name}: not a usable PNG: {error}") from error
    return picture


def _codes(name: str, picture: Image.Image, *, plain: bool) -> NDArray[np.int64]:
    """One number for each pixel (H, W): its index or level, or its colour's red, green and blue in 24 bits."""
    if plain:
        codes = np.asarray(picture).astype(np.int64)
    else:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(np.int64), -1, 0)
        codes = (red << 16) | (green << 8) | blue
    count = len(np.unique(codes))
    if count > MOST_LABELS:
        raise ValueError(f"{name}: {count} colours, a label map has at most {MOST_LABELS}")
    return codes
