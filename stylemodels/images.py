"""Pictures in and out: JPEG, PNG and WebP bytes to RGB tensors and back.

This is the only place that knows of uint8, colour profiles, EXIF, palettes and alpha. Everywhere else a picture is
RGB in sRGB's curve, float32, (N, 3, H, W), in [0, 1]. Decoding is deterministic, and `inspect` is what decides whether
a picture is accepted, on a laptop's folder as in the service.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor
from torch.nn.functional import interpolate

Format = Literal["JPEG", "PNG", "WebP"]

MIN_SIDE_PX = 16
MAX_PIXELS = 100_000_000  # 300 MB once decoded
MAX_ASPECT = 20  # a strip this long would be scaled up to hundreds of megabytes for one crop
ORIENTATION_TAG = 0x0112
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)

OPENERS: dict[Format, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
}

# What Pillow raises on bytes that only look like a picture; a fuzz test holds this list against it.
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error)


class PictureInfo(NamedTuple):
    """What a picture's bytes say: its size as one looks at it, after the EXIF rotation."""

    width: int
    height: int
    format: Format


def inspect(data: bytes, *, min_side: int = MIN_SIDE_PX, max_pixels: int = MAX_PIXELS) -> PictureInfo:
    """Decode `data` once, whole, to know that it can be used.

    Raises ValueError with the reason in plain words: not a JPEG, PNG or WebP, animated, smaller than `min_side`
    pixels, larger than `max_pixels` (known from the header, before anything is decoded), a strip, broken, cut off.
    """
    picture = _opened(data, max_pixels)
    width, height = picture.size
    if min(width, height) < min_side:
        raise ValueError(f"too small: {width} x {height} px, the shorter side must have {min_side}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"too long: {width} x {height} px, one side may have {MAX_ASPECT} times the other")
    _load(picture)
    if _orientation(picture) in TRANSPOSED_ORIENTATIONS:
        width, height = height, width
    return PictureInfo(width, height, _format(data))


def load_picture(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A whole picture, upright, in sRGB: (1, 3, H, W), float32 in [0, 1]. Transparency lies on white.

    Raises ValueError, with the path if there is one, for what `inspect` refuses but for its size limits from below.
    """
    if isinstance(source, bytes):
        return to_float(decode(source, max_pixels=max_pixels))[None]
    try:
        return to_float(decode(Path(source).read_bytes(), max_pixels=max_pixels))[None]
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A whole picture, upright: (3, H, W), uint8."""
    picture = _opened(data, max_pixels)
    _load(picture)
    return _upright(_tensor(picture), _orientation(picture))


def decode_for_crop(data: bytes, load_size: int, *, size: int) -> Tensor:
    """A picture scaled for a crop of `size` pixels: (3, H, W), uint8, upright.

    load_size: its shorter side afterwards; 0 keeps the picture. The shorter side is `size` at least.
    A JPEG is decoded at 1/2, 1/4 or 1/8 where that suffices, so a small crop never costs a decode at full size.
    """
    picture = _opened(data, MAX_PIXELS)
    shorter = max(load_size or min(picture.size), size)
    width, height = scaled_to_shorter(picture.width, picture.height, shorter)
    return _decode_scaled(picture, width, height)


def decode_squashed(data: bytes, size: int) -> Tensor:
    """A picture scaled straight to a square, its aspect ignored: (3, size, size), uint8, upright."""
    return _decode_scaled(_opened(data, MAX_PIXELS), size, size)


def scaled_to_shorter(width: int, height: int, shorter: int) -> tuple[int, int]:
    """The size (width, height) with the same aspect whose shorter side is `shorter`."""
    least = min(width, height)
    return round(width * shorter / least), round(height * shorter / least)


def to_float(pictures: Tensor) -> Tensor:
    """uint8 in any shape -> float32 in [0, 1], laid out in its own order of axes."""
    return pictures.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_uint8(image: Tensor) -> Tensor:
    """(3, H, W) or (1, 3, H, W) -> (H, W, 3), uint8: clamped to [0, 1] and rounded to the nearest of 256 levels.

    Raises ValueError for other shapes and for values that are no numbers.
    """
    chw = image.detach().squeeze(0) if image.ndim == 4 else image.detach()
    if chw.ndim != 3 or chw.shape[0] != 3:
        raise ValueError(f"a picture has the shape (3, H, W) or (1, 3, H, W), not {tuple(image.shape)}")
    chw = chw.float()
    if chw.isnan().any():
        raise ValueError("the picture contains values that are not numbers")
    return chw.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu()


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, 3, height, width) in [0, 1]: bicubic, smoothed first where it shrinks."""
    return interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def encode_jpeg(image: Tensor, quality: int = 95) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) as a JPEG with full colour resolution (4:4:4), tagged sRGB."""
    return _encoded(image, "JPEG", quality=quality, subsampling=0, optimize=True)


def encode_png(image: Tensor) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) as an 8-bit PNG, tagged sRGB."""
    return _encoded(image, "PNG", compress_level=3)


def save_picture(image: Tensor, path: Path | str) -> None:
    """Write `image` (3, H, W) or (1, 3, H, W) as its name says. Raises ValueError unless .png, .jpg or .jpeg."""
    path = Path(path)
    match path.suffix.lower():
        case ".png":
            path.write_bytes(encode_png(image))
        case ".jpg" | ".jpeg":
            path.write_bytes(encode_jpeg(image))
        case _:
            raise ValueError(f"{path}: pictures are written as .png, .jpg or .jpeg")


def _encoded(image: Tensor, format: str, **options: int | bool) -> bytes:
    out = BytesIO()
    Image.fromarray(to_uint8(image).numpy()).save(out, format, icc_profile=srgb_profile(), **options)
    return out.getvalue()


@cache
def srgb_profile() -> bytes:
    """sRGB's ICC profile, always the same bytes: the date that LittleCMS writes into it is replaced by 2000-01-01."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def _format(data: bytes) -> Format:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    raise ValueError("not a JPEG, PNG or WebP picture")


def _opened(data: bytes, max_pixels: int) -> ImageFile:
    """The header alone is read. Formats are opened by name: no other decoder of Pillow's ever sees the bytes."""
    format = _format(data)
    try:
        picture = OPENERS[format](BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: {error}") from error
    except BROKEN as error:
        raise ValueError(f"not a readable {format} picture: {error}") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(f"too large: {width} x {height} px are more than {max_pixels / 1e6:.0f} million pixels")
    if getattr(picture, "is_animated", False):
        raise ValueError("animated: only single pictures can be used")
    return picture


def _load(picture: ImageFile) -> None:
    try:
        picture.load()
    except BROKEN as error:
        raise ValueError(f"broken or cut off: {error}") from error


def _orientation(picture: ImageFile) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or EXIF is unreadable, as viewers have it."""
    try:
        orientation = picture.getexif().get(ORIENTATION_TAG, 1)
    except BROKEN:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(picture: Tensor, orientation: int) -> Tensor:
    """(3, H, W) as stored -> as one looks at it."""
    if orientation in TRANSPOSED_ORIENTATIONS:
        picture = picture.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}
    return picture.flip(flips[orientation]) if orientation in flips else picture


def _decode_scaled(picture: ImageFile, width: int, height: int) -> Tensor:
    """`width` and `height` are before the rotation. Resizing uint8 tensors takes an eighth of Pillow's time."""
    picture.draft(None, (width, height))
    _load(picture)
    stored = _tensor(picture)
    if stored.shape[1:] != (height, width):
        stored = interpolate(stored[None], size=(height, width), mode="bicubic", antialias=True)[0]
    return _upright(stored, _orientation(picture))


def _tensor(picture: Image.Image) -> Tensor:
    """A loaded picture as (3, H, W), uint8, a view of (H, W, 3)."""
    return torch.from_numpy(np.array(_srgb(picture))).permute(2, 0, 1)


def _srgb(picture: Image.Image) -> Image.Image:
    """Any mode that JPEG, PNG and WebP have, in any profile -> RGB, in sRGB, transparency on white."""
    profile = picture.info.get("icc_profile")
    picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    if profile:
        picture = _from_profile(picture, profile)
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, rounded; Pillow itself brings other 16-bit pictures to 8."""
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def _from_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return picture
        output = "RGBA" if picture.mode == "RGBA" else "RGB"
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, source, srgb, outputMode=output)
    except (OSError, ImageCms.PyCMSError):
        return picture  # a damaged profile, or one of another colour space: shown as if there were none
    return picture if converted is None else converted
