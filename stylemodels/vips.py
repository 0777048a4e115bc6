"""Pictures through libvips: 16 bits a channel, and files larger than memory. It comes with the extra `[large]`.

Files are opened by the loader of their format, by name: no other of libvips' many decoders ever sees the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL.ImageCms import PyCMSError
from torch import Tensor

from stylemodels.png import Bits, Levels
from stylemodels.profiles import is_srgb

VipsImage: TypeAlias = Any  # pyvips is not typed
STRIP_PX = 1 << 18  # pixels that are in memory at once, in floating point 3 MB

LOADERS: Mapping[str, str] = {"JPEG": "jpegload", "PNG": "pngload", "WebP": "webpload", "TIFF": "tiffload"}
VIPS_FORMATS: Mapping[Bits, tuple[str, str]] = {8: ("uchar", "srgb"), 16: ("ushort", "rgb16")}


@cache
def library() -> Any:
    """The package pyvips, loaded when it is first needed, for that takes 80 ms; None where it is not installed."""
    try:
        return import_module("pyvips")
    except (ImportError, OSError):  # OSError: the package is there, the shared library is not
        return None


def available() -> bool:
    """Whether libvips is installed."""
    return library() is not None


def check_available(why: str) -> None:
    """Raise ValueError, with what to install, where libvips is missing. why: what needs it, to begin the sentence."""
    if not available():
        raise ValueError(f"{why} libvips, which is not installed: pip install 'stylefoundry[large]'")


def opened(source: bytes | Path, format: str) -> VipsImage:
    """A JPEG, PNG, WebP or TIFF (its first page), to be read once from top to bottom; only its header is read now.

    Raises ValueError for what cannot be read, and for animations.
    """
    check_available("reading this picture takes")
    loader = LOADERS[format] if isinstance(source, Path) else f"{LOADERS[format]}_buffer"
    place = str(source) if isinstance(source, Path) else source
    try:
        image = getattr(library().Image, loader)(place, access="sequential", fail_on="error", revalidate=True)
    except library().Error as error:
        raise ValueError(f"not a readable {format} picture: {brief(error)}") from error
    if format == "WebP" and image.get_typeof("n-pages") and image.get("n-pages") > 1:
        raise ValueError("animated: only single pictures can be used")
    return image


def orientation(image: VipsImage) -> int:
    """EXIF's (or TIFF's) orientation, 1 to 8."""
    found = image.get("orientation") if image.get_typeof("orientation") else 1
    return found if found in range(1, 9) else 1


def in_srgb(image: VipsImage) -> VipsImage:
    """Three channels of 8 or 16 bits as they came, in sRGB, transparency on white. Raises ValueError."""
    if image.format not in ("uchar", "ushort"):
        raise ValueError(f"channels of the kind {image.format} cannot be read, only those of 8 or 16 bits")
    bits: Bits = 8 if image.format == "uchar" else 16
    format, space = VIPS_FORMATS[bits]
    try:
        image = from_profile(image, bits).colourspace(space)
        if image.hasalpha():
            most = 2**bits - 1
            image = image.flatten(background=[most] * 3, max_alpha=most)
        image = image.cast(format)
    except library().Error as error:
        raise ValueError(f"its colours cannot be read: {brief(error)}") from error
    if image.bands != 3:
        raise ValueError(f"{image.bands} channels cannot be read as a picture")
    return image


def from_profile(image: VipsImage, bits: Bits) -> VipsImage:
    """From the picture's own profile to sRGB; a damaged or foreign one is passed over."""
    if not image.get_typeof("icc-profile-data"):
        return image
    try:
        if is_srgb(image.get("icc-profile-data")):
            return image
        return image.icc_transform("srgb", embedded=True, intent="perceptual", depth=bits)
    except (OSError, PyCMSError, library().Error):
        return image


def strips(image: VipsImage) -> Iterator[tuple[int, Tensor]]:
    """A picture of `in_srgb` from top to bottom: where a strip begins, and it, (1, 3, h, W), float32 in [0, 1].

    Raises ValueError where the file is broken or cut off.
    """
    most = 255 if image.format == "uchar" else 65535
    dtype = np.uint8 if image.format == "uchar" else np.uint16
    rows = max(1, STRIP_PX // image.width)
    region = library().Region.new(image)
    for top in range(0, image.height, rows):
        height = min(rows, image.height - top)
        try:
            data = region.fetch(0, top, image.width, height)
        except library().Error as error:
            raise ValueError(f"broken or cut off: {brief(error)}") from error
        pixels = np.frombuffer(data, dtype).reshape(height, image.width, 3).astype(np.float32)
        yield top, torch.from_numpy(pixels).permute(2, 0, 1)[None].div_(most)


def resized(image: VipsImage, height: int, width: int) -> VipsImage:
    """Bicubic, smoothed first where it shrinks, like `images.resize`; untouched where it has the size."""
    across, down = width / image.width, height / image.height
    if (across, down) == (1, 1):
        return image
    if min(across, down) < 1:
        return image.resize(across, vscale=down, kernel="cubic", gap=0)
    # `resize` would enlarge half a pixel off the middle (libvips 8.18).
    return image.affine(
        [across, 0, 0, down],
        oarea=[0, 0, width, height],
        odx=(across - 1) / 2,
        ody=(down - 1) / 2,
        interpolate=library().Interpolate.new("bicubic"),
        extend="copy",
    )


def whole(image: VipsImage) -> Tensor:
    """A picture of `in_srgb`: (1, 3, H, W), float32 in [0, 1]."""
    return torch.cat([strip for _, strip in strips(image)], dim=2).contiguous()


def of_levels(levels: Levels) -> VipsImage:
    """A picture in memory."""
    height, width, bands = levels.shape
    format, space = VIPS_FORMATS[8 if levels.dtype == np.uint8 else 16]
    return library().Image.new_from_memory(levels.tobytes(), width, height, bands, format).copy(interpretation=space)


def tagged(image: VipsImage, profile: bytes) -> VipsImage:
    """The same picture with a colour profile."""
    tagged = image.copy()
    tagged.set_type(library().GValue.blob_type, "icc-profile-data", profile)
    return tagged


def save(image: VipsImage, path: Path, *, profile: bytes, quality: int) -> None:
    """Write a picture as .jpg, .jpeg, .webp, .tif or .tiff, row by row but for WebP. Raises OSError."""
    image = tagged(image, profile)
    try:
        match path.suffix:
            case ".jpg" | ".jpeg":  # without optimal tables, for which all coefficients would lie in memory
                image.jpegsave(str(path), Q=quality, subsample_mode="off", keep="icc")
            case ".webp":
                image.webpsave(str(path), Q=quality, smart_subsample=True, keep="icc")
            case _:
                large = image.width * image.height * 6 > 2**31
                image.tiffsave(str(path), compression="deflate", predictor="horizontal", bigtiff=large, keep="icc")
    except library().Error as error:
        raise OSError(f"{path.name} cannot be written: {brief(error)}") from error


def brief(error: Exception) -> str:
    """libvips' own words, on one line."""
    return " ".join(str(error).split())[:200]
