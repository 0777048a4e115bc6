"""Pictures for tests, made in code: of every kind that people upload, good and bad."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


def photograph(width: int, height: int, seed: int = 0) -> Pixels:
    """Something with a photograph's statistics: soft shapes, edges and texture, in colours that belong together."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    picture = np.full((height, width, 3), random.uniform(0.2, 0.6, 3))
    for frequency in (1, 2, 4, 8, 16, 32):
        angle, phase = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        picture += wave[..., None] * random.uniform(0.5, 1, 3) * 0.25 / frequency**0.7
    for _ in range(6):
        centre_x, centre_y, radius = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.05, 0.25)
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
        picture[disc] = 0.5 * picture[disc] + 0.5 * random.uniform(0, 1, 3)
    picture += random.normal(0, 0.02, picture.shape)
    return np.asarray((picture.clip(0, 1) * 255).round(), dtype=np.uint8)


def encoded(pixels: NDArray[Any] | Image.Image, format: str, **options: Any) -> bytes:
    """`pixels`, an array or an image of any mode, as a file of Pillow's `format`."""
    out = BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, format, **options)
    return out.getvalue()


def jpeg(width: int = 64, height: int = 48, seed: int = 0, **options: Any) -> bytes:
    return encoded(photograph(width, height, seed), "JPEG", **({"quality": 92} | options))


def png(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return encoded(photograph(width, height, seed), "PNG")


def webp(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return encoded(photograph(width, height, seed), "WEBP", lossless=True)


def rotated(pixels: Pixels, orientation: int, format: str = "PNG") -> bytes:
    """`pixels` as stored, with EXIF's `orientation` (1 to 8) telling how to look at them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, format, exif=exif)


def cmyk_jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return encoded(Image.fromarray(photograph(width, height, seed)).convert("CMYK"), "JPEG", quality=95)


def grey_16_bit_png(values: NDArray[np.uint16]) -> bytes:
    """`values` (H, W) as a PNG with 16 bits a pixel."""
    return encoded(values, "PNG")


def palette_png(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return encoded(Image.fromarray(photograph(width, height, seed)).quantize(32), "PNG")


def transparent_png(pixels: Pixels, alpha: NDArray[np.uint8]) -> bytes:
    """`pixels` with `alpha` (H, W)."""
    return encoded(np.dstack([pixels, alpha]), "PNG")


def animated_webp(width: int = 64, height: int = 48) -> bytes:
    frames = [Image.fromarray(photograph(width, height, seed)) for seed in range(3)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=40)


def truncated(data: bytes, share: float = 0.6) -> bytes:
    """The first part of a file."""
    return data[: int(len(data) * share)]


def text() -> bytes:
    """What somebody has named .jpg."""
    return b"This is not a picture, whatever its name says.\n" * 20


def header_bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A whole, valid PNG of a few hundred kilobytes that says it is `width` x `height`: 2.7 GB once decoded to RGB."""
    row = b"\0" + bytes((width + 7) // 8)
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(row * 100) for _ in range(height // 100)])
    packed += packer.compress(row * (height % 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_photographs(
    folder: Path, count: int, *, width: int = 64, height: int = 48, first_seed: int = 0
) -> list[Path]:
    """`count` different JPEGs in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo-{seed:03}.jpg" for seed in range(first_seed, first_seed + count)]
    for seed, path in enumerate(paths, start=first_seed):
        path.write_bytes(jpeg(width, height, seed))
    return paths
