"""Pictures that lie on disk and are read and written in rectangles, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

DType = Literal["float32", "float16"]
NUMPY_TYPES: Mapping[DType, type[np.floating]] = {"float32": np.float32, "float16": np.float16}


class Readable(Protocol):
    """What can be read in rectangles: a raster, or a picture in memory."""

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A rectangle as (1, channels, height, width), float32."""


class Raster:
    """An RGB picture (or a feature map) of any size in a file of its own: numbers as they come, not clamped.

    Read and written row by row rather than mapped into memory: mapped pages would count as the process's own, and a
    full disk would kill it.
    """

    def __init__(self, path: Path, height: int, width: int, dtype: DType = "float32", *, channels: int = 3) -> None:
        """Make the file, all zero, and its folder must be there. The caller removes it."""
        self.path, self.height, self.width, self.dtype, self.channels = path, height, width, dtype, channels
        with path.open("wb") as file:
            file.truncate(self._offset(height, 0))

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A rectangle as (1, channels, height, width), float32. Raises ValueError when the file ends before it does."""
        piece = np.empty((height, width, self.channels), NUMPY_TYPES[self.dtype])
        with self.path.open("rb", buffering=0) as file:
            for row in range(height):
                file.seek(self._offset(top + row, left))
                if file.readinto(piece[row]) != piece[row].nbytes:
                    raise ValueError(f"{self.path}: the file ends before row {top + row}")
        return torch.from_numpy(piece.astype(np.float32, copy=False)).permute(2, 0, 1)[None]

    def write(self, top: int, left: int, piece: Tensor) -> None:
        """Put `piece` (1, channels, h, w) where its top left corner belongs. Raises OSError when the disk is full."""
        rows = piece[0].permute(1, 2, 0).float().cpu().numpy().astype(NUMPY_TYPES[self.dtype], order="C")
        with self.path.open("r+b") as file:
            for number, row in enumerate(rows, start=top):
                file.seek(self._offset(number, left))
                file.write(row)

    def _offset(self, row: int, column: int) -> int:
        """Where a pixel's numbers begin in the file, bytes."""
        return (row * self.width + column) * self.channels * np.dtype(NUMPY_TYPES[self.dtype]).itemsize


class Loaded:
    """A picture in memory (1, 3, H, W) that is read as a raster is."""

    def __init__(self, picture: Tensor) -> None:
        self.picture = picture
        self.height, self.width = picture.shape[-2:]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        piece = self.picture[..., top : top + height, left : left + width]
        return piece.contiguous(memory_format=torch.channels_last)  # as a raster's, and faster on a CPU
