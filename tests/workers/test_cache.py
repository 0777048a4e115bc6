"""The disk cache: files by digest, whole or not at all, bounded, shared between processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from orchestrator.objects import Corrupt
from workers.cache import Cache


def content_of(number: int, size: int = 1000) -> bytes:
    return bytes([number]) * size


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def never() -> Iterable[bytes]:
    raise AssertionError("the file is here already: nothing is to be fetched")


def bringing(content: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: [content[:300], content[300:]]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 3500)


def held(cache: Cache, *numbers: int) -> list[bool]:
    return [(cache.folder / (d := digest(content_of(n)))[:2] / d).exists() for n in numbers]


def test_a_file_is_fetched_once(cache: Cache) -> None:
    content = content_of(1)
    assert cache.read(digest(content), bringing(content)) == content
    assert cache.read(digest(content), never) == content


def test_other_bytes_than_asked_for_are_refused_and_leave_nothing(cache: Cache) -> None:
    with pytest.raises(Corrupt):
        cache.read(digest(content_of(1)), bringing(content_of(2)))
    assert cache.size_bytes() == 0


def test_a_fetch_that_breaks_leaves_nothing(cache: Cache) -> None:
    def broken() -> Iterable[bytes]:
        yield b"first piece"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        cache.read(digest(content_of(1)), broken)
    assert not list(cache.folder.glob("??/*"))


@pytest.mark.parametrize("damage", [b"", b"x" * 1000], ids=["cut", "overwritten"])
def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(cache: Cache, damage: bytes) -> None:
    content = content_of(1)
    cache.open(digest(content), bringing(content)).close()
    next(cache.folder.glob("??/*")).write_bytes(damage)

    assert cache.read(digest(content), bringing(content)) == content
    assert Cache(cache.folder, 3500).read(digest(content), never) == content


def test_the_longest_unused_go_first(cache: Cache) -> None:
    for number in (1, 2, 3):
        cache.open(digest(content_of(number)), bringing(content_of(number))).close()
    cache.open(digest(content_of(1)), never).close()

    cache.open(digest(content_of(4)), bringing(content_of(4))).close()

    assert held(cache, 1, 2, 3, 4) == [True, False, True, True]
    assert cache.size_bytes() == 3000


def test_a_file_that_is_larger_than_the_cache_can_be_read_all_the_same(cache: Cache) -> None:
    large = content_of(9, size=5000)
    assert cache.read(digest(large), bringing(large)) == large


def test_who_holds_a_file_open_can_read_it_to_its_end(cache: Cache) -> None:
    content = content_of(1)
    with cache.open(digest(content), bringing(content)) as file:
        for number in range(2, 7):
            cache.open(digest(content_of(number)), bringing(content_of(number))).close()
        assert held(cache, 1) == [False]
        assert file.read() == content


def test_what_this_process_made_needs_no_fetch(cache: Cache, tmp_path: Path) -> None:
    content = content_of(1)
    (tmp_path / "made").write_bytes(content)
    cache.add(digest(content), tmp_path / "made")
    assert cache.read(digest(content), never) == content


def test_parts_of_killed_writers_are_removed(cache: Cache) -> None:
    part = cache.folder / "ab" / "ab12.99.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    cache.open(digest(content_of(1)), bringing(content_of(1))).close()
    assert not part.exists()


def _fetch_in_a_process(folder: Path, fetches: Path) -> None:
    content = content_of(1)

    def fetch() -> Iterable[bytes]:
        with fetches.open("a") as file:
            file.write("x")
        yield content

    assert Cache(folder, 3500).read(digest(content), fetch) == content


def test_processes_that_want_the_same_file_fetch_it_once(cache: Cache, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_fetch_in_a_process, args=(cache.folder, tmp_path / "fetches")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "fetches").read_text() == "x"
