"""What an ingest makes of the files that a commit names."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.objects import Missing, blob_key, upload_key
from orchestrator.store import datasets
from stylemodels.data import FolderSource
from tests import images
from tests.servers import S3Server
from tests.waiting import wait_until
from tests.workers.bench import TENANT, Bench, photos
from tests.workers.running import at_work


def manifest_of(bench: Bench, prefix: str | None) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(bench.objects.get(f"{prefix}/manifest.json"))
    return manifest


def known(bench: Bench, *digests: str) -> set[str]:
    with bench.db.read() as tx:
        return datasets.known_blobs(tx, TENANT, digests)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_good_pictures_are_packed_once_each_in_the_order_of_their_digests(bench: Bench) -> None:
    pictures = photos(4) | {"copy/again.jpg": photos(1)["000.jpg"], "a.png": images.png(), "b.webp": images.webp()}

    version = bench.dataset("photos", pictures)

    assert (version.status, version.error, version.refused) == ("ready", None, [])
    assert version.count == 6
    assert version.bytes == sum(len(content) for content in set(pictures.values()))
    assert version.paths == {path: digest(content) for path, content in pictures.items()}
    manifest = manifest_of(bench, version.prefix)
    order = [picture["sha256"] for picture in manifest["pictures"]]
    assert order == sorted({digest(content) for content in pictures.values()})
    assert version.hash == manifest["hash"] == digest("".join(order).encode())
    assert known(bench, *order) == set(order)


def test_a_shard_is_a_plain_tar_with_the_files_unchanged_at_the_offsets_of_the_manifest(bench: Bench) -> None:
    pictures = photos(3)
    version = bench.dataset("photos", pictures)

    manifest = manifest_of(bench, version.prefix)
    [shard] = manifest["shards"]
    content = bench.objects.get(f"{version.prefix}/{shard['path']}", sha256=shard["sha256"])
    assert len(content) == shard["size"]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {name: tar.extractfile(name) for name in tar.getnames()}
        assert list(members) == [f"{picture['sha256']}.jpg" for picture in manifest["pictures"]]
    for picture in manifest["pictures"]:
        there = content[picture["offset"] : picture["offset"] + picture["size"]]
        assert digest(there) == picture["sha256"]
        assert (picture["width"], picture["height"]) == (48, 40)


def test_a_picture_that_cannot_be_used_is_refused_alone_with_the_reason(bench: Bench) -> None:
    good = images.jpeg(seed=1)
    files = {
        "good.jpg": good,
        "notes.jpg": b"not a picture at all",
        "cut.jpg": images.jpeg(320, 240, seed=2)[:3000],
        "tiny.png": images.png(8, 8),
    }

    version = bench.dataset("mixed", files)

    assert (version.status, version.count, version.paths) == ("ready", 1, {"good.jpg": digest(good)})
    reasons = {refused["path"]: refused["reason"] for refused in version.refused}
    assert set(reasons) == {"notes.jpg", "cut.jpg", "tiny.png"}
    assert "not a JPEG, PNG or WebP" in reasons["notes.jpg"]
    assert "cut off" in reasons["cut.jpg"]
    assert "too small: 8 x 8" in reasons["tiny.png"]
    assert known(bench, digest(files["notes.jpg"])) == set()


def test_without_a_usable_picture_the_version_is_rejected(bench: Bench) -> None:
    version = bench.dataset("junk", {"a.jpg": b"junk", "b.jpg": b"more junk"})

    assert version.status == "rejected"
    assert version.error is not None
    assert version.error.startswith("no usable picture is left: 2 files were refused, e.g. a.jpg")
    assert version.prefix is None


def test_a_file_that_was_never_uploaded_rejects_the_version_by_name(bench: Bench) -> None:
    there, missing = images.jpeg(seed=1), images.jpeg(seed=2)
    version = bench.commit("photos", {"there.jpg": bench.upload(there), "missing.jpg": digest(missing)})

    assert bench.run(bench.claim()) == "succeeded"

    rejected = bench.version("photos", version)
    assert (rejected.status, rejected.error) == ("rejected", "missing.jpg was not uploaded")
    assert known(bench, digest(there)) == {digest(there)}, "what was good need not be sent again"


@pytest.mark.parametrize("sent", ["cut", "other"])
def test_an_upload_with_other_bytes_than_announced_rejects_the_version(bench: Bench, sent: str) -> None:
    content = images.jpeg(seed=1)
    bench.upload({"cut": content[:100], "other": images.jpeg(seed=2)}[sent], sha256=digest(content))
    version = bench.commit("photos", {"photo.jpg": digest(content)})

    assert bench.run(bench.claim()) == "succeeded"

    rejected = bench.version("photos", version)
    assert rejected.status == "rejected"
    assert rejected.error is not None
    assert rejected.error.startswith("photo.jpg has the sha256 ")
    with pytest.raises(Missing):
        bench.objects.size(blob_key(TENANT, digest(content)))


def test_a_second_cut_upload_of_a_picture_that_a_ready_dataset_holds_harms_nobody(bench: Bench) -> None:
    pictures = photos(2)
    first = bench.dataset("photos", pictures)
    content = pictures["000.jpg"]
    bench.objects.put(upload_key(TENANT, digest(content)), content[:50])

    version = bench.commit("again", {"000.jpg": digest(content)})
    assert bench.run(bench.claim()) == "succeeded"

    assert bench.version("again", version).status == "ready"
    shard = manifest_of(bench, first.prefix)["shards"][0]
    assert bench.objects.get(f"{first.prefix}/{shard['path']}", sha256=shard["sha256"])


def test_a_checked_picture_that_vanished_is_asked_for_again(bench: Bench) -> None:
    content = photos(1)["000.jpg"]
    bench.dataset("photos", {"000.jpg": content})
    bench.objects.delete([blob_key(TENANT, digest(content)), upload_key(TENANT, digest(content))])

    version = bench.commit("again", {"000.jpg": digest(content)})
    assert bench.run(bench.claim()) == "succeeded"

    assert bench.version("again", version).error == "000.jpg was not uploaded"
    assert known(bench, digest(content)) == set()
    assert bench.dataset("again", {"000.jpg": content}).status == "ready"


def test_the_first_folder_is_the_class_as_in_a_folder_on_a_laptop(bench: Bench, tmp_path: Path) -> None:
    files = {
        "b/1.jpg": images.jpeg(seed=1),
        "a/x/2.jpg": images.jpeg(seed=2),
        "a/3.jpg": images.jpeg(seed=3),
        "b/same.jpg": images.jpeg(seed=2),
        "top.jpg": images.jpeg(seed=4),
    }

    version = bench.dataset("labelled", files, kind="labelled")

    for path, content in files.items():
        (tmp_path / "laptop" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "laptop" / path).write_bytes(content)
    folder = FolderSource(tmp_path / "laptop", labelled=True)
    manifest = manifest_of(bench, version.prefix)
    assert version.classes == manifest["classes"] == list(folder.classes) == ["a", "b"]
    assert [picture["sha256"] for picture in manifest["pictures"]] == list(folder.digests)
    assert [picture["label"] for picture in manifest["pictures"]] == list(folder.labels or [])
    assert {(refused["path"], refused["reason"]) for refused in version.refused} == set(folder.refused)
    assert version.count == 3
    assert version.class_counts == {"a": 2, "b": 1}


def test_a_class_without_a_usable_picture_rejects_the_version_by_its_name(bench: Bench) -> None:
    photo = images.jpeg(seed=1)
    version = bench.dataset("labelled", {"a/1.jpg": photo, "b/same.jpg": photo, "b/no.jpg": b"text"}, kind="labelled")
    assert (version.status, version.error) == ("rejected", "there is no usable picture of class 'b'")
    assert [refused["path"] for refused in version.refused] == ["b/no.jpg", "b/same.jpg"]


def test_the_same_pictures_in_other_classes_are_another_dataset(bench: Bench) -> None:
    one, two = images.jpeg(seed=1), images.jpeg(seed=2)
    first = bench.dataset("first", {"a/1.jpg": one, "b/2.jpg": two}, kind="labelled")
    second = bench.dataset("second", {"b/1.jpg": one, "a/2.jpg": two}, kind="labelled")
    assert first.hash != second.hash


def test_an_ingest_survives_the_object_store_going_away(bench: Bench, s3_server: S3Server) -> None:
    files = {path: bench.upload(content) for path, content in photos(5).items()}
    version = bench.commit("photos", files)
    ticket = bench.claim()
    s3_server.kill()

    with at_work(bench, ticket) as outcome:
        wait_until(lambda: bench.job(ticket.job_id).status == "running", 20, "the ingest has begun")
        lease = bench.job(ticket.job_id).lease_until
        wait_until(lambda: bench.job(ticket.job_id).lease_until != lease, 20, "its lease is renewed meanwhile")
        s3_server.start()
        assert outcome.result(60) == "succeeded"

    assert bench.version("photos", version).count == 5


def test_an_ingest_that_was_given_up_changes_nothing_when_it_wakes(bench: Bench) -> None:
    version = bench.commit("photos", {path: bench.upload(content) for path, content in photos(2).items()})
    first = bench.claim()
    bench.lose(first)
    second = bench.claim()

    assert bench.run(first) == "superseded"
    assert bench.version("photos", version).status == "ingesting"
    assert bench.run(second) == "succeeded"
    assert bench.version("photos", version).status == "ready"
