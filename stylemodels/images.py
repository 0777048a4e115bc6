"""Pictures in and out: JPEG, PNG and WebP bytes to RGB tensors and back.

This is the only place that knows of uint8, colour profiles, EXIF, palettes and alpha. Everywhere else a picture is
RGB in sRGB's curve, float32, (N, 3, H, W), in [0, 1]. Decoding is deterministic, and `inspect` is what decides whether
a picture is accepted, on a laptop's folder as in the service. PNGs of 16 bits a channel keep them where libvips is
installed, for stylising; training sees 8.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels import png, vips
from stylemodels.png import Bits, Levels
from stylemodels.profiles import is_srgb, srgb_profile

Format = Literal["JPEG", "PNG", "WebP"]

MIN_SIDE_PX = 16
MAX_PIXELS = 100_000_000  # 300 MB once decoded
MAX_ASPECT = 20  # a strip this long would be scaled up to hundreds of megabytes for one crop
ORIENTATION_TAG = 0x0112
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)
PNG_DEPTH_AT = 24  # where a PNG says how many bits a channel has

OutputFormat = Literal["png", "png16", "jpeg", "webp"]
CONTENT_TYPES: Mapping[OutputFormat, str] = {
    "png": "image/png",
    "png16": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # hold 16 bits a channel
MAX_SIDE_PX: Mapping[str, int] = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}
QUALITY = 95  # of JPEG and WebP; brush strokes suffer below

OPENERS: dict[Format, Callable[[BinaryIO], ImageFile]] = {
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
    check_aspect(width, height)
    _load(picture)
    return _info(picture, _format(data))


def peek(path: Path) -> tuple[PictureInfo, int]:
    """What a JPEG, PNG or WebP file's header says, and EXIF's orientation. The rest may be broken, or too large.

    Raises ValueError for other formats and unreadable headers, OSError.
    """
    with path.open("rb") as file:
        format = _format(file.read(16))
        file.seek(0)
        picture = _header(file, format)
        return _info(picture, format), _orientation(picture)


def check_aspect(width: int, height: int) -> None:
    """Raise ValueError for a strip."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"too long: {width} x {height} px, one side may have {MAX_ASPECT} times the other")


def load_picture(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A whole picture, upright, in sRGB: (1, 3, H, W), float32 in [0, 1]. Transparency lies on white.

    Raises ValueError, with the path if there is one, for what `inspect` refuses but for its size limits from below.
    """
    if isinstance(source, bytes):
        return _whole(source, max_pixels)
    try:
        return _whole(Path(source).read_bytes(), max_pixels)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A whole picture, upright: (3, H, W), uint8."""
    picture = _opened(data, max_pixels)
    _load(picture)
    return upright(_tensor(picture), _orientation(picture))


def decode_for_crop(data: bytes, load_size: int, *, size: int) -> Tensor:
    """A picture scaled for a crop of `size` pixels: (3, H, W), uint8, upright.

    load_size: its shorter side afterwards; 0 keeps the picture. The shorter side is `size` at least; 0: any.
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


def upright(picture: Tensor, orientation: int) -> Tensor:
    """(C, H, W) as stored -> as one looks at it; orientation: EXIF's, 1 to 8."""
    if orientation in TRANSPOSED_ORIENTATIONS:
        picture = picture.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}
    return picture.flip(flips[orientation]) if orientation in flips else picture


def to_float(pictures: Tensor) -> Tensor:
    """uint8 in any shape -> float32 in [0, 1], laid out in its own order of axes."""
    return pictures.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_uint8(image: Tensor) -> Tensor:
    """(3, H, W) or (1, 3, H, W) -> (H, W, 3), uint8: clamped to [0, 1] and rounded to the nearest of 256 levels.

    Raises ValueError for other shapes and for values that are no numbers.
    """
    return _levels(image, 255).to(torch.uint8)


def to_levels(image: Tensor, bits: Bits) -> Levels:
    """The same for 8 or 16 bits, as an array: (H, W, 3), uint8 or uint16."""
    levels = _levels(image, 2**bits - 1).numpy()
    return levels.astype(np.uint8) if bits == 8 else levels.astype(np.uint16)


def _levels(image: Tensor, most: int) -> Tensor:
    chw = image.detach().squeeze(0) if image.ndim == 4 else image.detach()
    if chw.ndim != 3 or chw.shape[0] != 3:
        raise ValueError(f"a picture has the shape (3, H, W) or (1, 3, H, W), not {tuple(image.shape)}")
    chw = chw.float()
    if chw.isnan().any():
        raise ValueError("the picture contains values that are not numbers")
    return chw.clamp(0, 1).mul(most).round().permute(1, 2, 0).cpu()


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, 3, height, width) in [0, 1]: bicubic, smoothed first where it shrinks."""
    return interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def encode(image: Tensor, format: OutputFormat, *, quality: int = QUALITY) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) in a format that `CONTENT_TYPES` lists. quality: of JPEG and WebP, 1 to 100.

    Raises ValueError for another format, for sides that it cannot have, for values that are no numbers.
    """
    match format:
        case "png":
            return encode_png(image)
        case "png16":
            return encode_png(image, bits=16)
        case "jpeg":
            return encode_jpeg(image, quality)
        case "webp":
            return encode_webp(image, quality)
        case _:
            raise ValueError(f"format: {format!r} was given, allowed are {', '.join(get_args(OutputFormat))}")


def encode_jpeg(image: Tensor, quality: int = QUALITY) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) as a JPEG with full colour resolution (4:4:4), tagged sRGB."""
    check_output(".jpg", *image.shape[-2:])
    return _encoded(image, "JPEG", quality=quality, subsampling=0, optimize=True)


def encode_webp(image: Tensor, quality: int = QUALITY) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) as a lossy WebP, tagged sRGB. Raises ValueError above 16,383 px a side."""
    check_output(".webp", *image.shape[-2:])
    return _encoded(image, "WEBP", quality=quality, use_sharp_yuv=True)


def encode_png(image: Tensor, *, bits: Bits = 8) -> bytes:
    """`image` (3, H, W) or (1, 3, H, W) as a PNG of 8 or 16 bits a channel, tagged sRGB."""
    if bits == 8:
        return _encoded(image, "PNG", compress_level=3)
    out, levels = BytesIO(), to_levels(image, bits)
    png.write(out, levels.shape[0], levels.shape[1], bits, [levels], srgb_profile())
    return out.getvalue()


def save_picture(image: Tensor, path: Path | str, *, bits: Bits = 8, quality: int = QUALITY) -> None:
    """Write `image` (3, H, W) or (1, 3, H, W) as its name says: .png, .jpg, .jpeg, .webp, .tif or .tiff.

    bits: a channel's, 8 or 16; 16 for PNG and TIFF alone. TIFF needs libvips. Raises ValueError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        check_output(suffix, *image.shape[-2:], bits=bits)
        match suffix:
            case ".png":
                path.write_bytes(encode_png(image, bits=bits))
            case ".jpg" | ".jpeg":
                path.write_bytes(encode_jpeg(image, quality))
            case ".webp":
                path.write_bytes(encode_webp(image, quality))
            case _:
                vips.save(vips.of_levels(to_levels(image, bits)), path, profile=srgb_profile(), quality=quality)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_output(suffix: str, height: int, width: int, *, bits: Bits = 8) -> None:
    """Raise ValueError unless a picture of this size can be written in the format of `suffix`, in small letters."""
    if suffix not in SUFFIXES:
        raise ValueError(f"pictures are written as {', '.join(SUFFIXES)}")
    if bits not in (8, 16) or (bits == 16 and suffix not in DEEP_SUFFIXES):
        raise ValueError(f"{bits} bits a channel were asked for: 8, or 16 as {', '.join(DEEP_SUFFIXES)}")
    if suffix in (".tif", ".tiff"):
        vips.check_available("writing TIFF takes")
    if max(height, width) > (most := MAX_SIDE_PX.get(suffix, 2**31 - 1)):
        raise ValueError(f"{width} x {height} px cannot be written as {suffix}, its sides have at most {most:,} px")


def _encoded(image: Tensor, format: str, **options: int | bool) -> bytes:
    out = BytesIO()
    Image.fromarray(to_uint8(image).numpy()).save(out, format, icc_profile=srgb_profile(), **options)
    return out.getvalue()


def _format(data: bytes) -> Format:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    raise ValueError("not a JPEG, PNG or WebP picture")


def _whole(data: bytes, max_pixels: int) -> Tensor:
    """(1, 3, H, W), float32, of 16 bits where the picture has them."""
    picture = _opened(data, max_pixels)
    check_aspect(*picture.size)
    if not (_format(data) == "PNG" and data[PNG_DEPTH_AT] == 16 and vips.available()):
        return to_float(decode(data, max_pixels=max_pixels))[None]
    _load(picture)  # Pillow is the judge of what is whole
    return upright(vips.whole(vips.in_srgb(vips.opened(data, "PNG")))[0], _orientation(picture)).contiguous()[None]


def _opened(data: bytes, max_pixels: int) -> ImageFile:
    """The header alone is read."""
    picture = _header(BytesIO(data), _format(data))
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(f"too large: {width} x {height} px are more than {max_pixels / 1e6:.0f} million pixels")
    if getattr(picture, "is_animated", False):
        raise ValueError("animated: only single pictures can be used")
    return picture


def _header(file: BinaryIO, format: Format) -> ImageFile:
    """Formats are opened by name: no other decoder of Pillow's ever sees the bytes."""
    try:
        return OPENERS[format](file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: {error}") from error
    except BROKEN as error:
        raise ValueError(f"not a readable {format} picture: {error}") from error


def _info(picture: ImageFile, format: Format) -> PictureInfo:
    width, height = picture.size
    if _orientation(picture) in TRANSPOSED_ORIENTATIONS:
        width, height = height, width
    return PictureInfo(width, height, format)


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


def _decode_scaled(picture: ImageFile, width: int, height: int) -> Tensor:
    """`width` and `height` are before the rotation. Resizing uint8 tensors takes an eighth of Pillow's time."""
    picture.draft(None, (width, height))
    _load(picture)
    stored = _tensor(picture)
    if stored.shape[1:] != (height, width):
        stored = interpolate(stored[None], size=(height, width), mode="bicubic", antialias=True)[0]
    return upright(stored, _orientation(picture))


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
        if is_srgb(profile):
            return picture
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        output = "RGBA" if picture.mode == "RGBA" else "RGB"
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, source, srgb, outputMode=output)
    except (OSError, ImageCms.PyCMSError):
        return picture  # a damaged profile, or one of another colour space: shown as if there were none
    return picture if converted is None else converted
