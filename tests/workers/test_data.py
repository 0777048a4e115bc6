"""A dataset in S3 gives the training the same batches as a folder on a laptop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.objects import Corrupt, Missing
from orchestrator.store.tables import DatasetVersion
from stylemodels.data import Batches, FolderSource
from stylemodels.method import Stream
from tests import images
from tests.servers import S3Server
from tests.workers.bench import Bench, photos
from workers import packing
from workers.cache import Cache
from workers.data import ShardSource
from workers.patience import Patience


def pinned(version: DatasetVersion) -> Mapping[str, Any]:
    return {"name": version.name, "version": version.version, "hash": version.hash, "prefix": version.prefix}


def source_of(bench: Bench, version: DatasetVersion, *, cache: Cache | None = None) -> ShardSource:
    return ShardSource(pinned(version), bench.objects, cache or bench.platform.cache, Patience(outage_s=20))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 8192)


def test_a_dataset_reads_like_the_folder_it_came_from(sqlite_bench: Bench, tmp_path: Path, small_shards: None) -> None:
    pictures = photos(8)
    version = sqlite_bench.dataset("photos", pictures)
    (tmp_path / "laptop").mkdir()
    for path, content in pictures.items():
        (tmp_path / "laptop" / path).write_bytes(content)
    folder, source = FolderSource(tmp_path / "laptop"), source_of(sqlite_bench, version)

    assert list(source.digests) == list(folder.digests)
    assert [source.read(n) for n in range(8)] == [folder.read(n) for n in range(8)]
    streams = {"content": Stream("content", count=3, size=32)}
    with (
        Batches(streams, {"content": source}, seed=5) as ours,
        Batches(streams, {"content": folder}, seed=5) as theirs,
    ):
        assert all(torch.equal(ours.at(step)["content"], theirs.at(step)["content"]) for step in range(6))
    source.close()


def test_what_was_fetched_once_is_read_without_the_object_store(sqlite_bench: Bench, s3_server: S3Server) -> None:
    pictures = photos(3)
    version = sqlite_bench.dataset("photos", pictures)
    source = source_of(sqlite_bench, version)
    s3_server.kill()
    assert {source.read(n) for n in range(3)} == set(pictures.values())
    source.close()


def test_a_cache_that_is_too_small_for_the_dataset_serves_all_of_it(
    sqlite_bench: Bench, tmp_path: Path, small_shards: None
) -> None:
    pictures = photos(12)
    version = sqlite_bench.dataset("photos", pictures)
    size = sum(len(content) for content in pictures.values())
    cache = Cache(tmp_path / "small", size // 2)
    source = source_of(sqlite_bench, version, cache=cache)
    assert {source.read(n) for n in (*range(12), *range(12))} == set(pictures.values())
    source.close()
    assert cache.size_bytes() <= size


def test_a_dataset_that_is_not_the_pinned_one_is_refused(sqlite_bench: Bench) -> None:
    version = sqlite_bench.dataset("photos", photos(2))
    version.hash = "0" * 64
    with pytest.raises(Corrupt, match="lists pictures with the hash"):
        source_of(sqlite_bench, version)


@pytest.mark.parametrize("manifest", [b"", b"{}", b'{"pictures": 3, "classes": []}'])
def test_a_damaged_manifest_is_refused(sqlite_bench: Bench, manifest: bytes) -> None:
    version = sqlite_bench.dataset("photos", photos(2))
    sqlite_bench.objects.put(f"{version.prefix}/manifest.json", manifest)
    with pytest.raises(Corrupt, match="is not the manifest of a dataset"):
        source_of(sqlite_bench, version)


def test_a_shard_that_was_overwritten_is_refused(sqlite_bench: Bench, tmp_path: Path) -> None:
    version = sqlite_bench.dataset("photos", photos(2))
    sqlite_bench.objects.put(f"{version.prefix}/shard-00000.tar", b"not the shard")
    source = source_of(sqlite_bench, version, cache=Cache(tmp_path / "empty", 10**9))
    with pytest.raises(Corrupt):
        source.read(0)
    source.close()


def test_a_dataset_that_is_gone_is_missing(sqlite_bench: Bench) -> None:
    version = sqlite_bench.dataset("photos", photos(2))
    sqlite_bench.objects.delete_prefix(str(version.prefix))
    with pytest.raises(Missing):
        source_of(sqlite_bench, version)


def test_labels_and_classes_come_with_the_pictures(sqlite_bench: Bench) -> None:
    files = {f"{name}/{n}.jpg": images.jpeg(seed=10 * n + len(name)) for name in ("cat", "horse") for n in range(2)}
    version = sqlite_bench.dataset("animals", files, kind="labelled")
    source = source_of(sqlite_bench, version)
    assert list(source.classes) == ["cat", "horse"]
    assert source.labels is not None
    for index, label in enumerate(source.labels):
        assert source.read(index) in [files[path] for path in files if path.startswith(source.classes[label])]
    assert json.loads(sqlite_bench.objects.get(f"{version.prefix}/manifest.json"))["kind"] == "labelled"
    source.close()
