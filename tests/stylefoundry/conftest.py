from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.settings import Settings
from stylefoundry import Client
from tests.conftest import Bucket
from tests.images import jpeg
from tests.serving import ADMIN_KEY, serving


@pytest.fixture
def service_settings(sqlite_url: str, redis_url: str, s3: Bucket, tmp_path: Path, server_folder: Path) -> Settings:
    """Of a service on SQLite: what clients see does not depend on the database."""
    return Settings(
        database_url=sqlite_url,
        redis_url=SecretStr(redis_url),
        s3_url=s3.url,
        s3_bucket=s3.name,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
        admin_key=SecretStr(ADMIN_KEY),
        cache_dir=server_folder / "cache",  # the methods are described once for all tests
        weights_dir=tmp_path / "weights",
        warm_encoder="random",
        renew_s=0.1,
        log_json=False,
    )


@pytest.fixture
def service(service_settings: Settings) -> Iterator[str]:
    """The address of a running service, without workers."""
    with serving(service_settings) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    with Client(service, ADMIN_KEY, patience_s=10) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with six photographs, one of them twice, and files that are none of a dataset's business."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for n in range(5):
        (folder / f"{n}.jpg").write_bytes(jpeg(64, 48, seed=n))
    (folder / "deeper" / "5.JPG").write_bytes(jpeg(64, 48, seed=5))
    (folder / "again.jpg").write_bytes(jpeg(64, 48, seed=0))
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.jpg").write_bytes(jpeg(64, 48, seed=9))
    return folder
