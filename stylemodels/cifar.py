"""The binary CIFAR files as folders of pictures.

Every record is one byte for the class (CIFAR-100: one for the coarse class in front of it) and 3072 for a picture of
32 x 32: all of red, of green, of blue, row by row. Krizhevsky 2009, Learning Multiple Layers of Features from Tiny
Images. Python's own version of the files is pickled, and so not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from stylemodels.images import save_picture, to_float

SIDE_PX = 32
PICTURE_BYTES = 3 * SIDE_PX**2
LABEL_BYTES: Mapping[str, int] = {"batches.meta.txt": 1, "fine_label_names.txt": 2}  # by the file of the names


def unpack(folder: Path, out: Path) -> dict[str, int]:
    """Write `out`/train/CLASS/*.png and `out`/test/CLASS/*.png; returns how many of each part.

    Raises ValueError where the names of the classes or the pictures are missing, or a file is none of CIFAR's.
    """
    label_bytes, names = class_names(folder)
    files = sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder}: there is no .bin file in it")
    counts: dict[str, int] = {}
    for file in files:
        part = "test" if file.stem.startswith("test") else "train"
        for record in records(file, label_bytes, len(names)):
            counts[part] = counts.get(part, 0) + 1
            path = out / part / names[int(record[label_bytes - 1])] / f"{counts[part]:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_picture(to_float(record[label_bytes:].view(3, SIDE_PX, SIDE_PX)), path)
    return counts


def class_names(folder: Path) -> tuple[int, list[str]]:
    """How many bytes a label has, and what the classes are called."""
    for file, label_bytes in LABEL_BYTES.items():
        if (folder / file).is_file():
            return label_bytes, (folder / file).read_text().split()
    raise ValueError(f"{folder}: has neither {' nor '.join(LABEL_BYTES)}, the names of CIFAR's classes")


def records(file: Path, label_bytes: int, classes: int) -> torch.Tensor:
    """(records, bytes), uint8."""
    data = bytearray(file.read_bytes())
    if not data or len(data) % (label_bytes + PICTURE_BYTES):
        raise ValueError(f"{file}: {len(data)} bytes are no whole number of CIFAR's records")
    found = torch.frombuffer(data, dtype=torch.uint8).view(-1, label_bytes + PICTURE_BYTES)
    if (most := int(found[:, label_bytes - 1].max())) >= classes:
        raise ValueError(f"{file}: has the class {most}, there are names of {classes}")
    return found
