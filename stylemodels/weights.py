"""Weight files of the encoders: where they lie, whether they are the published ones, what is in them.

Which directory, which paths: the caller says so; nothing here looks into the environment. Nothing is unpickled beyond
tensors (`weights_only`).
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from torch import Tensor

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PublishedFile:
    """A weight file that everybody fetches from the same place."""

    name: str
    url: str
    sha256_prefix: str


# torchvision's own files (BSD 3-Clause); their names carry the first digits of their digests.
PUBLISHED = {
    "vgg16": PublishedFile("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "vgg19": PublishedFile("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
}


class Weights:
    """The weight files that this machine has.

    directory: holds files under their published names (`vgg16-397923af.pth`), as `vgg16.pth` or `vgg16.safetensors`,
        or named by their whole sha256, as the object store keeps them.
    paths: explicit files, by the names in `PUBLISHED`; they come first.
    """

    def __init__(self, directory: Path | str | None = None, paths: Mapping[str, Path | str] | None = None) -> None:
        self.directory = Path(directory) if directory is not None else None
        self.paths = {name: Path(path) for name, path in (paths or {}).items()}
        if unknown := sorted(set(self.paths) - set(PUBLISHED)):
            raise ValueError(f"there are no weights called {unknown[0]!r}; known: {', '.join(PUBLISHED)}")

    def find(self, name: str) -> Path | None:
        """The file with the weights called `name`, unopened; None where there is none."""
        if name in self.paths:
            return self.paths[name]
        if self.directory is None:
            return None
        published = PUBLISHED[name]
        for candidate in (published.name, f"{name}.safetensors", f"{name}.pth"):
            if (path := self.directory / candidate).is_file():
                return path
        by_digest = sorted(self.directory.glob(f"{published.sha256_prefix}*"))
        return next((path for path in by_digest if len(path.name) == 64 and path.is_file()), None)


def published_tensors(name: str, weights: Weights | None) -> dict[str, Tensor]:
    """Tensors of the published file `name`, float32, by torchvision's keys (`features.0.weight`).

    A pickle file must be torchvision's own, by digest; a safetensors file may be anybody's conversion of it.
    Raises ValueError when the file is missing, is not what it claims to be, or cannot be read.
    """
    path = weights.find(name) if weights is not None else None
    if path is None:
        raise ValueError(_missing(name, weights))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_sha256(path, PUBLISHED[name].sha256_prefix)
        # Mapped, so that the half gigabyte of the classifier is never read.
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights of {name}: cannot read {path}: {error}") from error


def _missing(name: str, weights: Weights | None) -> str:
    published = PUBLISHED[name]
    where = weights.directory if weights is not None and weights.directory is not None else "the weights directory"
    return (
        f"encoder {name} needs its weights: run `stylefoundry weights add {name} FILE`, put {published.name} in {where}"
        f" (published at {published.url}), or choose encoder small"
    )


def check_sha256(path: Path, expected_prefix: str) -> None:
    """Raise ValueError unless the file's sha256 begins with `expected_prefix` (lower-case hexadecimal)."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected_prefix):
        raise ValueError(f"{path} is not the published file: its sha256 is {digest}, not {expected_prefix}…")


def fetch(
    url: str, sha256_prefix: str, dest: Path, *, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Download `url` to `dest`, which appears only when its sha256 begins with `sha256_prefix`.

    progress: called with the bytes so far and the whole size, None where the server does not tell it.
    Raises OSError when the download fails, ValueError when something else than the expected file came.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as file:
            length = response.headers.get("Content-Length")
            total = int(length) if length is not None else None
            done = 0
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        check_sha256(partial, sha256_prefix)
        partial.replace(dest)
    finally:
        partial.unlink(missing_ok=True)


def shipped_bytes() -> bytes:
    """The small encoder's file, which comes with the package."""
    return (files("stylemodels") / "weights_data" / "small_encoder.safetensors").read_bytes()


@cache
def shipped_tensors() -> Mapping[str, Tensor]:
    """The small encoder's tensors, float32, by name. Shared: copy before changing one."""
    return load(shipped_bytes())


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself."""
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] | None = file.metadata()
    return found or {}
