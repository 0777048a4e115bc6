"""What a training job is built from: its datasets, encoder, base model and style picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from orchestrator.objects import Corrupt, Missing, blob_key, weights_key
from orchestrator.store import attempts
from orchestrator.store.tables import Job
from stylemodels.encoders import WEIGHTS_OF, Encoder, load_encoder
from stylemodels.export import MODEL_FILE
from stylemodels.images import load_picture
from stylemodels.method import Base, Needs
from stylemodels.sources import check_classes
from stylemodels.weights import Weights
from workers.data import ShardSource
from workers.patience import Patience
from workers.platform import Platform


@dataclass(frozen=True)
class Inputs:
    """Everything besides the settings."""

    sources: Mapping[str, ShardSource]  # those that the task trains on
    base: Base | None
    style_image: Tensor | None  # (1, 3, H, W) in [0, 1]

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Class names in the order of the labels, of every labelled dataset."""
        return {name: tuple(source.classes) for name, source in self.sources.items() if source.labels is not None}


@contextmanager
def open_inputs(job: Job, needs: Needs, platform: Platform, patience: Patience) -> Iterator[Inputs]:
    """Raises ValueError when the job lacks what its task needs, or has too few pictures of it.

    Missing or Corrupt when S3 has not what was pinned.
    """
    if missing := [role for role in needs.datasets if role not in job.datasets]:
        raise ValueError(f"datasets: {missing[0]} is missing; this task trains on {', '.join(needs.datasets)}")
    with ExitStack() as stack:
        sources = {}
        for role in needs.datasets:
            source = ShardSource(job.datasets[role], platform.objects, platform.cache, patience)
            sources[role] = source
            stack.callback(source.close)
            check_classes(role, source, needs)
        base = None if job.base_model is None else read_base(job.base_model, platform, patience)
        style = None if job.style_image is None else read_style(job, platform, patience)
        yield Inputs(sources, base, style)


def read_base(pinned: Mapping[str, Any], platform: Platform, patience: Patience) -> Base:
    """The base model, by its files' digests."""
    file = next(file for file in pinned["files"] if file["path"] == MODEL_FILE)
    fetch = partial(platform.objects.stream, f"{pinned['prefix']}/{MODEL_FILE}")
    content = patience.call(partial(platform.cache.read, file["sha256"], fetch))
    return Base(pinned["method"], pinned["task"], pinned["config"], safetensors.torch.load(content))


def read_style(job: Job, platform: Platform, patience: Patience) -> Tensor:
    """The style picture: a file of the dataset `style`."""
    assert job.style_image is not None
    path, sha256 = str(job.style_image["path"]), str(job.style_image["sha256"])
    try:
        return read_picture(job, "style", path, sha256, platform, patience)
    except ValueError as error:
        raise ValueError(f"style_image {error}") from error


def read_picture(job: Job, role: str, path: str, sha256: str, platform: Platform, patience: Patience) -> Tensor:
    """A picture of a dataset of the job, by its digest: (1, 3, H, W) in [0, 1]. Raises ValueError with its path."""
    fetch = partial(platform.objects.stream, blob_key(job.tenant_id, sha256))
    try:
        content = patience.call(partial(platform.cache.read, sha256, fetch))
    except (Missing, Corrupt):  # a cut overwrite took the single copy; the dataset's shards hold it too
        content = _from_shards(job, role, sha256, platform, patience)
    try:
        return load_picture(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_shards(job: Job, role: str, sha256: str, platform: Platform, patience: Patience) -> bytes:
    source = ShardSource(job.datasets[role], platform.objects, platform.cache, patience)
    try:
        return source.read(list(source.digests).index(sha256))
    finally:
        source.close()


class Encoders:
    """Encoders that this process has loaded, by name and device. They are frozen: attempts share them."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._loaded: dict[tuple[str, str], Encoder] = {}

    def get(self, name: str, device: torch.device, patience: Patience) -> Encoder:
        """Raises ValueError when its weights cannot be had."""
        key = (name, str(device))
        if key not in self._loaded:
            weights = weights_of(name, self._platform, patience)
            self._loaded[key] = load_encoder(name, weights).to(device)  # type: ignore[arg-type]  # it checks the name
        return self._loaded[key]


def weights_of(encoder: str, platform: Platform, patience: Patience) -> Weights:
    """The machine's weight files; what `encoder` needs and only the object store has is fetched first."""
    folder = platform.settings.weights_dir
    weights = Weights(folder)
    needed = WEIGHTS_OF.get(encoder)
    if needed is None or weights.find(needed) is not None:
        return weights
    sha256 = patience.call(partial(_weights_digest, platform, needed))
    if sha256 is not None:
        fetch = partial(platform.objects.stream, weights_key(sha256))
        _place(folder / f"{needed}.safetensors", patience.call(partial(platform.cache.read, sha256, fetch)))
    return weights


def _weights_digest(platform: Platform, name: str) -> str | None:
    with platform.db.read() as tx:
        return attempts.weights_digest(tx, name)


def _place(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
