"""Pictures on disk, read and written in rectangles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from stylemodels.raster import DType, Loaded, Raster
from tests.stylemodels.toy import photos


def test_a_new_raster_is_black_and_as_large_as_its_numbers(tmp_path: Path):
    raster = Raster(tmp_path / "x", 5, 7)
    assert torch.equal(raster.read(0, 0, 5, 7), torch.zeros(1, 3, 5, 7))
    assert (tmp_path / "x").stat().st_size == 5 * 7 * 3 * 4


def test_rectangles_come_back_from_where_they_were_put(tmp_path: Path):
    picture = 3 * photos(1, 40)[..., :32] - 1  # also below 0 and above 1
    raster = Raster(tmp_path / "x", 40, 32)
    for top in range(0, 40, 10):
        for left in range(0, 32, 16):
            raster.write(top, left, picture[..., top : top + 10, left : left + 16])
    assert torch.equal(raster.read(0, 0, 40, 32), picture)
    assert torch.equal(raster.read(3, 5, 20, 7), picture[..., 3:23, 5:12])
    assert raster.read(3, 5, 20, 7).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11)])
def test_half_the_bytes_cost_the_digits_of_float16(tmp_path: Path, dtype: DType, error: float):
    picture = photos(1, 32)
    raster = Raster(tmp_path / "x", 32, 32, dtype)
    raster.write(0, 0, picture)
    assert (tmp_path / "x").stat().st_size == 32 * 32 * 3 * (4 if dtype == "float32" else 2)
    assert_close(raster.read(0, 0, 32, 32), picture, rtol=error, atol=0)


def test_a_raster_holds_features_too(tmp_path: Path):
    features = torch.rand(1, 17, 6, 9, generator=torch.Generator().manual_seed(0))
    raster = Raster(tmp_path / "x", 6, 9, channels=17)
    raster.write(0, 0, features)
    assert torch.equal(raster.read(1, 2, 4, 5), features[..., 1:5, 2:7])


def test_a_written_rectangle_does_not_reach_beyond_itself(tmp_path: Path):
    raster = Raster(tmp_path / "x", 8, 8)
    raster.write(2, 3, torch.ones(1, 3, 4, 2))
    assert raster.read(0, 0, 8, 8).sum() == 3 * 4 * 2


def test_a_picture_in_memory_reads_as_a_raster_does(tmp_path: Path):
    picture = photos(1, 20)
    raster = Raster(tmp_path / "x", 20, 20)
    raster.write(0, 0, picture)
    loaded = Loaded(picture)
    assert (loaded.height, loaded.width) == (20, 20)
    assert torch.equal(loaded.read(3, 4, 9, 8), raster.read(3, 4, 9, 8))
    assert loaded.read(3, 4, 9, 8).is_contiguous(memory_format=torch.channels_last)
    assert raster.read(3, 4, 9, 8).is_contiguous(memory_format=torch.channels_last)
