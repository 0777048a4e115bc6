from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.settings import Settings
from tests.conftest import Bucket
from tests.workers.bench import Bench, photos
from workers.platform import Platform


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    """On each database."""
    platform = Platform.open(settings)
    yield Bench(platform)
    platform.close()


@pytest.fixture
def sqlite_settings(sqlite_url: str, redis_url: str, s3: Bucket, tmp_path: Path) -> Settings:
    return Settings(
        database_url=sqlite_url,
        redis_url=SecretStr(redis_url),
        s3_url=s3.url,
        s3_bucket=s3.name,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
        cache_dir=tmp_path / "cache",
        weights_dir=tmp_path / "weights",
        warm_encoder="random",
        renew_s=0.1,
    )


@pytest.fixture
def sqlite_bench(sqlite_settings: Settings) -> Iterator[Bench]:
    """For what does not depend on the database."""
    platform = Platform.open(sqlite_settings)
    yield Bench(platform)
    platform.close()


@pytest.fixture
def stocked(sqlite_bench: Bench) -> Bench:
    """With the datasets `photos` and `paintings`."""
    sqlite_bench.dataset("photos", photos(6))
    sqlite_bench.dataset("paintings", photos(3, first_seed=100))
    return sqlite_bench
