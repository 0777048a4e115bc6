"""Tiles against the whole frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from stylemodels import tiles
from stylemodels.raster import Loaded, Raster
from stylemodels.tiles import Level, Place, level_of
from stylemodels.whitening import Moments
from tests.stylemodels.pairs import LEVELS, random_pairs
from tests.stylemodels.toy import photos

PICTURE = photos(1, 320)[..., :256, :].double()  # 256 x 320
TILE = 128


def level_at(block: int) -> Level:
    """In float64: what is left of an error is not rounding."""
    [pair] = random_pairs([block], dtype=torch.float64)
    return level_of(lambda images: pair.encode(images.double()), pair.decode, block)


def unchanged(features: Tensor, place: Place) -> Tensor:
    return features


def features_by_tiles(level: Level, picture: Tensor = PICTURE) -> Tensor:
    whole = torch.full_like(level.encode(picture), torch.nan)
    for place, features in tiles.feature_tiles(Loaded(picture), level, tile=TILE):
        place.of(whole).copy_(features)
    return whole


def drawn_by_tiles(
    level: Level,
    folder: Path,
    change: Callable[[Tensor, Place], Tensor] = unchanged,
    draw: Callable[..., None] = tiles.draw,
) -> Tensor:
    height, width = PICTURE.shape[-2:]
    target = Raster(folder / "target", height, width)
    draw(Loaded(PICTURE), target, level, change, tile=TILE)
    return target.read(0, 0, height, width).double()


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


class TestPlaces:
    @given(height=st.integers(1, 99), width=st.integers(1, 99), tile=st.integers(1, 9), multiple=st.integers(1, 16))
    @settings(max_examples=50, deadline=None)
    def test_tiles_cover_every_pixel_once_and_start_at_multiples(
        self, height: int, width: int, tile: int, multiple: int
    ):
        covered = torch.zeros(height, width, dtype=torch.int)
        for place in tiles.tiles(height, width, tile * multiple, multiple):
            assert place.top % multiple == place.left % multiple == 0
            assert 0 < place.height <= tile * multiple
            assert 0 < place.width <= tile * multiple
            place.of(covered).add_(1)
        assert (covered == 1).all()

    def test_tiles_share_evenly_what_does_not_divide(self):
        assert [place.width for place in tiles.tiles(16, 1040, 1024, 16)] == [528, 512]

    def test_a_halo_ends_where_the_picture_ends(self):
        assert Place(16, 0, 16, 32).grown(8, 40, 40) == Place(8, 0, 32, 40)
        assert Place(16, 16, 8, 8).grown(8, 40, 40) == Place(8, 8, 24, 24)

    def test_a_place_inside_another_is_the_same_pixels(self):
        outer, inner = Place(4, 8, 20, 24), Place(6, 9, 5, 7)
        assert torch.equal(inner.inside(outer).of(outer.of(PICTURE)), inner.of(PICTURE))


@pytest.mark.parametrize("block", LEVELS)
class TestEveryBlock:
    """Check 5 of Collaborative Distillation: the halos of its section 6.2 are enough, and one cell less is not."""

    def test_features_are_those_of_the_whole_frame(self, block: int):
        level = level_at(block)
        assert largest(features_by_tiles(level) - level.encode(PICTURE)) < 1e-12

    def test_features_with_a_halo_one_cell_smaller_are_not(self, block: int):
        level = level_at(block)
        narrow = replace(level, encode_halo=level.encode_halo - level.cell)
        assert largest(features_by_tiles(narrow) - level.encode(PICTURE)) > 1e-3

    def test_the_picture_is_that_of_the_whole_frame(self, block: int, tmp_path: Path):
        level = level_at(block)
        whole = level.decode(level.encode(PICTURE))
        assert_close(drawn_by_tiles(level, tmp_path), whole, rtol=1e-6, atol=1e-6)

    def test_the_picture_with_a_halo_one_cell_smaller_is_not(self, block: int, tmp_path: Path):
        level = level_at(block)
        narrow = replace(level, decode_halo=level.decode_halo - 1)
        difference = drawn_by_tiles(narrow, tmp_path) - level.decode(level.encode(PICTURE))
        assert largest(difference) > 1e-4

    def test_the_moments_are_those_of_the_whole_frame(self, block: int):
        level = level_at(block)
        found, whole = tiles.moments(Loaded(PICTURE), level, tile=TILE), Moments.of(level.encode(PICTURE))
        assert found.positions == whole.positions
        assert_close(found.mean, whole.mean, rtol=1e-9, atol=1e-9)
        assert_close(found.covariance, whole.covariance, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("height", "width"), [(157, 203), (33, 255), (128, 129)])
    def test_a_style_of_any_size_has_the_features_of_the_whole_frame(self, block: int, height: int, width: int):
        level, style = level_at(block), PICTURE[..., :height, :width]
        assert largest(features_by_tiles(level, style) - level.encode(style)) < 1e-12

    def test_features_that_the_first_pass_kept_serve_the_second(self, block: int, tmp_path: Path):
        level = level_at(block)
        kept = tiles.room_for_features(Loaded(PICTURE), level, tmp_path / "features")
        tiles.moments(Loaded(PICTURE), level, tile=TILE, keep=kept)
        deaf = replace(level, encode=lambda images: pytest.fail("encoded again"))
        result = drawn_by_tiles(
            replace(deaf, decode=lambda features: level.decode(features.double())),
            tmp_path,
            draw=partial(tiles.draw, kept=kept),
        )
        assert_close(result, level.decode(level.encode(PICTURE)), rtol=1e-5, atol=1e-5)


def test_a_change_is_told_where_its_features_lie(tmp_path: Path):
    level = level_at(3)
    whole = level.encode(PICTURE)
    seen = torch.zeros(whole.shape[-2:])

    def look(features: Tensor, place: Place) -> Tensor:
        assert largest(features - place.of(whole)) < 1e-12
        place.of(seen).add_(1)
        return features

    drawn_by_tiles(level, tmp_path, look)
    assert (seen >= 1).all()
    assert seen.max() == 4, "halos lie over each other"


def test_a_tile_larger_than_the_picture_is_the_whole_frame():
    level = level_at(2)
    [(place, features)] = tiles.feature_tiles(Loaded(PICTURE), level, tile=1024)
    assert place == Place(0, 0, 128, 160)
    assert torch.equal(features, level.encode(PICTURE.contiguous(memory_format=torch.channels_last)))


def test_both_passes_report_until_they_are_done(tmp_path: Path):
    level, heard = level_at(1), list[float]()
    tiles.moments(Loaded(PICTURE), level, tile=TILE, report=heard.append)
    assert heard == pytest.approx([n / 6 for n in range(1, 7)])
    heard.clear()
    drawn_by_tiles(level, tmp_path, draw=partial(tiles.draw, report=heard.append))
    assert heard == pytest.approx([n / 6 for n in range(1, 7)])


def test_nothing_remembers_gradients():
    level = level_at(2)
    picture = PICTURE.clone().requires_grad_()
    assert not tiles.moments(Loaded(picture), level, tile=TILE).covariance.requires_grad


@pytest.mark.parametrize("tile", [0, 8, 100, -16])
def test_a_tile_that_cuts_cells_is_refused(tile: int):
    with pytest.raises(ValueError, match=f"tile: {tile} px were given, it must be a multiple of 16"):
        next(tiles.feature_tiles(Loaded(PICTURE), level_at(1), tile=tile))


def test_a_target_of_another_size_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="target: 256 x 319 px for a picture of 256 x 320"):
        tiles.draw(Loaded(PICTURE), Raster(tmp_path / "x", 256, 319), level_at(1), unchanged, tile=TILE)


def test_a_picture_is_not_drawn_over_itself(tmp_path: Path):
    raster = Raster(tmp_path / "x", 64, 64)
    with pytest.raises(ValueError, match="cannot be drawn over itself"):
        tiles.draw(raster, raster, level_at(1), unchanged, tile=TILE)


def test_sides_that_are_no_multiples_of_a_cell_are_refused(tmp_path: Path):
    source, target = Raster(tmp_path / "x", 72, 64), Raster(tmp_path / "y", 72, 64)
    with pytest.raises(ValueError, match="sides of 72 x 64 px are no multiples of 16"):
        tiles.draw(source, target, level_at(5), unchanged, tile=TILE)


@pytest.mark.parametrize("side", [1, 16, 31])
def test_a_picture_too_small_to_reflect_is_refused(side: int):
    with pytest.raises(ValueError, match=f"shorter side must be at least 32 px, this one's is {side}"):
        tiles.moments(Loaded(PICTURE[..., :side]), level_at(5), tile=TILE)
