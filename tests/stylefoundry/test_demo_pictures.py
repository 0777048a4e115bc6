"""The demo's pictures are there without a download, and its sheet shows all of them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from stylefoundry.demo_pictures import contact_sheet, prepare
from tests.images import jpeg


def test_shipped_photographs_make_both_folders_and_keep_some_unseen(tmp_path: Path):
    pictures = prepare(tmp_path, None, None)
    contents = {path.name.rpartition("-")[0] for path in pictures.contents.iterdir()}
    assert len(list(pictures.contents.iterdir())) >= 40
    assert {photo.stem for photo in pictures.unseen}.isdisjoint(contents)
    assert all((pictures.styles / style).is_file() for style in pictures.adapt_to)
    for path in pictures.contents.iterdir():
        with Image.open(path) as picture:
            assert picture.size == (256, 256)


def test_a_users_own_photos_and_painting_take_their_place(tmp_path: Path):
    own = tmp_path / "own"
    own.mkdir()
    for n in range(5):
        (own / f"{n}.jpg").write_bytes(jpeg(96, 64, seed=n))
    painting = tmp_path / "painting.png"
    painting.write_bytes(jpeg(64, 64, seed=9))
    pictures = prepare(tmp_path / "out", own, painting)
    assert [photo.stem for photo in pictures.unseen] == ["0", "1"]
    assert {path.name[0] for path in pictures.contents.iterdir()} == {"2", "3", "4"}
    assert pictures.adapt_to[0] == "painting.jpg"


def test_too_few_photos_are_an_error_that_says_how_many(tmp_path: Path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "1.jpg").write_bytes(jpeg())
    with pytest.raises(ValueError, match="holds 1 photos; the demo needs 4"):
        prepare(tmp_path / "out", tmp_path / "own", None)


def test_the_contact_sheet_has_a_cell_for_each_pair(tmp_path: Path):
    paths = [tmp_path / f"{n}.jpg" for n in range(8)]
    for n, path in enumerate(paths):
        Image.new("RGB", (40, 30), (20 * n + 40, 0, 0)).save(path, quality=100, subsampling=0)
    contents, styles, results = paths[:2], paths[2:4], [paths[4:6], paths[6:8]]
    contact_sheet(contents, styles, results, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = (256 + 12, 256 + 22 + 12)
        assert sheet.size == (3 * cell[0] + 12, 3 * cell[1] + 12)
        shown = [
            [sheet.getpixel((12 + x * cell[0] + 128, 12 + y * cell[1] + 128))[0] for x in range(3)]  # type: ignore[index]
            for y in range(3)
        ]
    expected = [255, 80, 100, 40, 120, 140, 60, 160, 180]
    assert all(abs(a - b) < 8 for a, b in zip(chain(*shown), expected, strict=True))
