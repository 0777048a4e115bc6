"""Pictures that lie on disk and are read and written in rectangles, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

DType = Literal["float32", "float16"]
NUMPY_TYPES: Mapping[DType, type[np.floating]] = {"float32": np.float32, "float16": np.float16}


class Raster:
    """An RGB picture of any size in a file of its own: numbers as they come, not clamped."""

    def __init__(self, path: Path, height: int, width: int, dtype: DType = "float32") -> None:
        """Make the file, all zero, and its folder must be there. The caller removes it."""
        self.path, self.height, self.width, self.dtype = path, height, width, dtype
        self._pixels = np.memmap(path, dtype=NUMPY_TYPES[dtype], mode="w+", shape=(height, width, 3))

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A rectangle as (1, 3, height, width), float32."""
        piece = self._pixels[top : top + height, left : left + width]
        return torch.from_numpy(piece.astype(np.float32)).permute(2, 0, 1)[None]

    def write(self, top: int, left: int, piece: Tensor) -> None:
        """Put `piece` (1, 3, h, w) where its top left corner belongs."""
        height, width = piece.shape[-2:]
        self._pixels[top : top + height, left : left + width] = piece[0].permute(1, 2, 0).float().cpu().numpy()
