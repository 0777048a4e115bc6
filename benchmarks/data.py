"""From a shard in S3 to training tensors against a plain Pillow loop: `python -m benchmarks.data`.

The budget: at least twice the pictures a second of Pillow over local files, photos of 1600 x 1200 to 512 x 512, on one
core. Both make float32 batches of random 512 px crops of pictures whose shorter side was scaled to 512. The photos are
made here and go through the real upload, ingest and S3 server; what counts is the CPU time of the reading process, all
its threads included. Rounds alternate, and each reads pictures that it has not in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import SecretStr
from torch import Tensor

from benchmarks.machine import SERVICE_CORE, busy, on_core
from orchestrator.settings import Settings
from orchestrator.store.migrate import upgrade
from stylemodels.data import Batches
from stylemodels.method import Stream
from tests.images import jpeg
from tests.servers import S3Server, ValkeyServer
from tests.workers.bench import Bench
from workers.cache import Cache
from workers.data import ShardSource
from workers.patience import Patience
from workers.platform import Platform

BUDGET = 2.0
SIZE, BATCH = 512, 4
WIDTH, HEIGHT, PHOTOS = 1600, 1200, 48


class Took(NamedTuple):
    """Seconds of a round over all photos."""

    cpu_s: float
    wall_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = {f"photo-{n}.jpg": jpeg(WIDTH, HEIGHT, seed=n, quality=90) for n in range(PHOTOS)}
    with tempfile.TemporaryDirectory(prefix="stylefoundry-bench-") as name, platform_in(Path(name)) as platform:
        folder = Path(name) / "photos"
        folder.mkdir()
        for path, content in photos.items():
            (folder / path).write_bytes(content)
        version = Bench(platform).dataset("photos", photos)
        pinned = {"hash": version.hash, "prefix": version.prefix}
        with on_core(SERVICE_CORE):
            rounds = [one_round(folder, pinned, platform, Path(name) / f"cache-{n}") for n in range(options.rounds)]
    mib = sum(map(len, photos.values())) / 2**20
    print(f"{PHOTOS} JPEGs of {WIDTH} x {HEIGHT} ({mib:.0f} MiB) to {SIZE} x {SIZE}, medians of {len(rounds)} rounds")
    plain, cold, warm = (list(took) for took in zip(*rounds, strict=True))
    for took, label in ((cold, "shards from S3, nothing cached"), (warm, "shards on the disk already")):
        cpu = statistics.median(p.cpu_s / t.cpu_s for p, t in zip(plain, took, strict=True))
        wall = statistics.median(p.wall_s / t.wall_s for p, t in zip(plain, took, strict=True))
        print(
            f"{label}: {cpu:.2f} times as fast as Pillow by CPU time, {wall:.2f} by the clock (budget {BUDGET}); "
            f"{ms_each(took):.1f} ms a picture"
        )
    print(f"Pillow: {ms_each(plain):.1f} ms a picture; {busy()}")


def one_round(folder: Path, pinned: Mapping[str, str | None], platform: Platform, cache: Path) -> tuple[Took, ...]:
    return pillow(folder), shards(pinned, platform, cache), shards(pinned, platform, cache)


def ms_each(rounds: Sequence[Took]) -> float:
    """CPU milliseconds a picture."""
    return 1000 * statistics.median(took.cpu_s for took in rounds) / PHOTOS


@contextmanager
def platform_in(folder: Path) -> Iterator[Platform]:
    """A worker's connections to real servers."""
    s3, valkey = S3Server(folder / "s3"), ValkeyServer(folder / "valkey")
    s3.start()
    valkey.start()
    settings = Settings(
        database_url=f"sqlite:///{folder / 'bench.db'}",
        redis_url=SecretStr(valkey.url),
        s3_url=s3.url,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
        cache_dir=folder / "cache",
        weights_dir=folder / "weights",
    )
    upgrade(settings.database_url)
    platform = Platform.open(settings)
    platform.objects.ensure_bucket()
    try:
        yield platform
    finally:
        platform.close()
        s3.stop()
        valkey.stop()


def pillow(folder: Path) -> Took:
    """What training code usually does: open, convert, resize, crop, to tensor."""
    random = np.random.default_rng(0)
    paths = sorted(folder.iterdir())
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(paths), BATCH):
        use(torch.stack([pillow_tensor(path, random) for path in paths[start : start + BATCH]]))
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def pillow_tensor(path: Path, random: np.random.Generator) -> Tensor:
    """(3, SIZE, SIZE), float32 in [0, 1]."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    scale = SIZE / min(picture.size)
    width, height = round(picture.width * scale), round(picture.height * scale)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = int(random.integers(width - SIZE + 1)), int(random.integers(height - SIZE + 1))
    crop = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))
    return torch.from_numpy(crop.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


def shards(pinned: Mapping[str, str | None], platform: Platform, folder: Path) -> Took:
    """What a worker does, with its disk cache in `folder`: the second time the shards are there."""
    cache = Cache(folder, platform.cache.max_bytes)
    stream = Stream("content", count=BATCH, size=SIZE, load_size=SIZE)
    wall, cpu = time.perf_counter(), time.process_time()
    source = ShardSource(pinned, platform.objects, cache, Patience(outage_s=60.0))
    with Batches({"content": stream}, {"content": source}, seed=0) as batches:
        for step in range(PHOTOS // BATCH):
            use(batches.at(step)["content"])
    source.close()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def use(batch: Tensor) -> None:
    """What training would be given."""
    if batch.shape != (BATCH, 3, SIZE, SIZE) or batch.dtype != torch.float32:
        raise RuntimeError(f"a batch of {tuple(batch.shape)}, {batch.dtype}")


if __name__ == "__main__":
    main()
