"""PNG files of 8 and 16 bits a channel, written strip by strip: Pillow writes whole pictures only, and of 8 bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits = Literal[8, 16]
Levels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]  # (H, W, 3), RGB
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUECOLOUR = 2
SUB = 1  # each byte as its difference from the same byte of the pixel to the left
COMPRESSION = 3


def write(
    file: BinaryIO,
    height: int,
    width: int,
    bits: Bits,
    strips: Iterable[Levels],
    profile: bytes,
    level: int = COMPRESSION,
) -> None:
    """Write an RGB picture. strips: (h, width, 3) from top to bottom. profile: its ICC profile. level: zlib's, 0 to 9.

    Source: PNG specification, third edition, sections 5, 9 and 11.
    """
    file.write(SIGNATURE)
    write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, TRUECOLOUR, 0, 0, 0))
    write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    packer = zlib.compressobj(level)
    for strip in strips:
        write_chunk(file, b"IDAT", packer.compress(filtered(strip, bits).tobytes()))
    write_chunk(file, b"IDAT", packer.flush())
    write_chunk(file, b"IEND", b"")


def filtered(levels: Levels, bits: Bits) -> NDArray[np.uint8]:
    """Rows as PNG has them: (h, 1 + row bytes), the filter's number first."""
    pixel_bytes = 3 * bits // 8
    rows = levels.astype(f">u{bits // 8}", copy=False).reshape(len(levels), -1).view(np.uint8)
    coded = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    coded[:, 0] = SUB
    coded[:, 1 : 1 + pixel_bytes] = rows[:, :pixel_bytes]
    coded[:, 1 + pixel_bytes :] = rows[:, pixel_bytes:] - rows[:, :-pixel_bytes]  # modulo 256
    return coded


def write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    """Length, kind, body, checksum; a body of nothing is written only where the format wants one."""
    if body or kind == b"IEND":
        file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
