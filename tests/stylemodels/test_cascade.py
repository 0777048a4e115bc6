"""Whitening and colouring from coarse to fine: whole frames, tiles, several styles, masks, bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels import cascade
from stylemodels.cascade import Pair
from stylemodels.method import Style
from stylemodels.raster import Raster
from stylemodels.whitening import wct
from tests.stylemodels.pairs import LEVELS, WIDTHS, fill, peak_mib, random_pairs
from tests.stylemodels.toy import paintings, photos

CONTENT = photos(1, 320)[..., :256, :]  # 256 x 320
FIRST, SECOND = paintings(1, 200, seed=1), paintings(1, 150, seed=4)[..., :101]
# Random networks have directions of next to no spread, in which whitening would multiply float32's rounding by 300 at
# each of five levels: a larger eps leaves them out.
RECIPE = {"alpha": 1.0, "eps": 1e-2, "shrink": 0.0}
TWO_LEVELS_OF_256 = 2 / 255


def masked() -> list[Style]:
    """Two styles whose masks run softly into each other, across cells and tiles."""
    ramp = torch.linspace(-3, 3, 320).add(torch.linspace(-1, 1, 256)[:, None]).sigmoid()[None, None]
    return [Style(FIRST, mask=ramp), Style(SECOND, mask=1 - ramp)]


STYLES = {
    "one": [Style(FIRST)],
    "weights": [Style(FIRST, weight=0.3), Style(SECOND, weight=0.7)],
    "masks": masked(),
}


def by_tiles(
    folder: Path,
    styles: Sequence[Style],
    pairs: Sequence[Pair],
    tile: int = 128,
    *,
    dtype: Any = "float32",
    **told: Any,
) -> Tensor:
    height, width = CONTENT.shape[-2:]
    source, target = Raster(folder / "source", height, width), Raster(folder / "target", height, width, dtype)
    source.write(0, 0, CONTENT)
    cascade.draw_tiles(source, target, styles, pairs, tile=tile, **{**RECIPE, **told})
    return target.read(0, 0, height, width)


def whole(styles: Sequence[Style], pairs: Sequence[Pair], **told: Any) -> Tensor:
    return cascade.draw(CONTENT, styles, pairs, **{**RECIPE, **told})


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


class TestWholeFrame:
    def test_each_level_s_picture_is_the_next_one_s_content(self):
        picture = CONTENT
        for pair in random_pairs():
            picture = pair.decode(wct(pair.encode(picture), pair.encode(FIRST), eps=1e-2))
        assert_close(whole([Style(FIRST)], random_pairs()), picture, rtol=1e-4, atol=1e-4)

    def test_levels_are_drawn_in_the_order_given(self):
        up, down = whole(STYLES["one"], random_pairs([1, 3])), whole(STYLES["one"], random_pairs([3, 1]))
        assert largest(up - down) > 0.01
        assert_close(
            down, cascade.draw(whole(STYLES["one"], random_pairs([3])), STYLES["one"], random_pairs([1]), **RECIPE)
        )

    @pytest.mark.parametrize("name", STYLES)
    def test_alpha_0_is_the_plain_reconstruction_bit_for_bit(self, name: str):
        """Check 3 of Collaborative Distillation."""
        picture = CONTENT
        for pair in random_pairs():
            picture = pair.decode(pair.encode(picture))
        assert torch.equal(whole(STYLES[name], random_pairs(), alpha=0.0), picture)

    def test_alpha_between_goes_between_features(self):
        [pair] = random_pairs([4])
        own = pair.encode(CONTENT)
        expected = pair.decode(own.lerp(wct(own, pair.encode(FIRST), eps=1e-2), 0.4))
        assert_close(whole([Style(FIRST)], [pair], alpha=0.4), expected, rtol=1e-4, atol=1e-4)

    def test_weights_mix_what_each_style_makes_of_the_features(self):
        [pair] = random_pairs([3])
        own = pair.encode(CONTENT)
        expected = pair.decode(
            0.3 * wct(own, pair.encode(FIRST), eps=1e-2) + 0.7 * wct(own, pair.encode(SECOND), eps=1e-2)
        )
        assert_close(whole(STYLES["weights"], [pair]), expected, rtol=1e-4, atol=1e-4)

    def test_masks_give_every_cell_its_own_mixture(self):
        [pair] = random_pairs([3])
        own = pair.encode(CONTENT)
        share = torch.nn.functional.avg_pool2d(STYLES["masks"][0].mask, 4)
        expected = pair.decode(
            share * wct(own, pair.encode(FIRST), eps=1e-2) + (1 - share) * wct(own, pair.encode(SECOND), eps=1e-2)
        )
        assert_close(whole(STYLES["masks"], [pair]), expected, rtol=1e-4, atol=1e-4)

    def test_a_mask_over_all_is_that_style_alone(self):
        everywhere, nowhere = torch.ones(1, 1, 256, 320), torch.zeros(1, 1, 256, 320)
        both = [Style(FIRST, mask=everywhere), Style(SECOND, mask=nowhere)]
        assert_close(whole(both, random_pairs()), whole([Style(FIRST)], random_pairs()))

    def test_shrink_and_eps_reach_the_whitening(self):
        [pair] = random_pairs([2])
        own, style = pair.encode(CONTENT), pair.encode(FIRST)
        calmer = whole([Style(FIRST)], [pair], shrink=1.0, eps=0.1)
        assert_close(calmer, pair.decode(wct(own, style, eps=0.1, shrink=1.0)), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("content", [torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.5)])
    def test_a_picture_of_one_colour_gives_finite_results(self, content: Tensor):
        """Check 4 of Collaborative Distillation."""
        for picture, style in ((content, FIRST), (CONTENT, content), (content, content)):
            assert cascade.draw(picture, [Style(style)], random_pairs(), **RECIPE).isfinite().all()

    def test_a_style_too_small_is_refused(self):
        with pytest.raises(ValueError, match="shorter side must be at least 32 px, this one's is 1"):
            whole([Style(FIRST[..., :1, :1])], random_pairs())


class TestTiles:
    """Check 5 of Collaborative Distillation."""

    @pytest.mark.parametrize("block", LEVELS)
    def test_every_level_equals_the_whole_frame(self, block: int, tmp_path: Path):
        pairs = random_pairs([block])
        assert largest(by_tiles(tmp_path, STYLES["one"], pairs) - whole(STYLES["one"], pairs)) < 1e-5

    @pytest.mark.parametrize("name", STYLES)
    @pytest.mark.parametrize("alpha", [1.0, 0.6])
    def test_the_cascade_equals_the_whole_frame(self, name: str, alpha: float, tmp_path: Path):
        pairs = random_pairs()
        expected = whole(STYLES[name], pairs, alpha=alpha)
        assert expected.std() > 0.05, "there is something to see"
        assert largest(by_tiles(tmp_path, STYLES[name], pairs, alpha=alpha) - expected) < 1e-4

    def test_half_the_bytes_between_the_levels_cost_less_than_two_levels_of_256(self, tmp_path: Path):
        pairs = random_pairs()
        result = by_tiles(tmp_path, STYLES["one"], pairs, dtype="float16")
        assert largest(result.clamp(0, 1) - whole(STYLES["one"], pairs).clamp(0, 1)) < TWO_LEVELS_OF_256

    def test_alpha_0_is_the_plain_reconstruction_and_reads_no_style(self, tmp_path: Path):
        unreadable = [Style(FIRST[..., :1, :1])]
        result = by_tiles(tmp_path, unreadable, random_pairs(), alpha=0.0)
        assert largest(result - whole(unreadable, random_pairs(), alpha=0.0)) < 1e-5

    def test_a_style_larger_than_a_tile_is_the_same_style(self, tmp_path: Path):
        large = [Style(paintings(1, 301, seed=2))]
        pairs = random_pairs([4, 2])
        assert largest(by_tiles(tmp_path, large, pairs, tile=64) - whole(large, pairs)) < 1e-4

    @pytest.mark.parametrize("levels", [LEVELS, (4, 1), (3,)])
    def test_nothing_is_left_beside_the_result(self, levels: Sequence[int], tmp_path: Path):
        by_tiles(tmp_path, STYLES["one"], random_pairs(levels))
        assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}

    def test_nothing_is_left_after_an_error_halfway(self, tmp_path: Path):
        good, bad = random_pairs([5, 4])
        broken = bad._replace(decode=lambda features: bad.decode(features[:, :1]))
        with pytest.raises(RuntimeError, match="channels"):
            by_tiles(tmp_path, STYLES["one"], [good, broken])
        assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}

    def test_the_source_stays_as_it_is(self, tmp_path: Path):
        by_tiles(tmp_path, STYLES["one"], random_pairs())
        pixels = torch.frombuffer(bytearray((tmp_path / "source").read_bytes()), dtype=torch.float32)
        assert torch.equal(pixels.view(256, 320, 3).permute(2, 0, 1)[None], CONTENT)

    def test_a_tile_that_cuts_cells_is_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match="tile: 100 px were given"):
            by_tiles(tmp_path, STYLES["one"], random_pairs(), tile=100)

    def test_progress_goes_up_to_the_end(self, tmp_path: Path):
        heard = list[float]()
        by_tiles(tmp_path, STYLES["one"], random_pairs(), report=heard.append)
        assert heard == sorted(heard)
        assert 0 < heard[0] < 0.1
        assert heard[-1] == pytest.approx(1)
        heard.clear()
        whole(STYLES["one"], random_pairs(), report=heard.append)
        assert heard == pytest.approx([23 / 50, 38 / 50, 45 / 50, 49 / 50, 1])


class TestThumbnail:
    def test_is_the_picture_at_less_resolution(self, tmp_path: Path):
        small = photos(1, 96)[..., :64, :]
        source = Raster(tmp_path / "x", 192, 288)
        source.write(0, 0, torch.nn.functional.interpolate(small, scale_factor=3))
        for tile in (16, 64, 1024):
            assert_close(cascade.thumbnail(source, 64, tile=tile), small)

    def test_has_the_shorter_side_asked_for_and_multiples_of_16(self, tmp_path: Path):
        source = Raster(tmp_path / "x", 240, 400)
        fill(source)
        result = cascade.thumbnail(source, 64, tile=128)
        assert result.shape == (1, 3, 64, 112)
        assert_close(result.mean(), source.read(0, 0, 240, 400).mean(), rtol=0.02, atol=0)

    def test_maps_of_a_small_copy_draw_the_large_picture(self, tmp_path: Path):
        pair, style = random_pairs([3])[0], STYLES["weights"]
        result = by_tiles(tmp_path, style, [pair], stats="thumbnail", thumb_size=64)
        source = Raster(tmp_path / "copy", 256, 320)
        source.write(0, 0, CONTENT)
        small, own = pair.encode(cascade.thumbnail(source, 64, tile=128)), pair.encode(CONTENT)
        mixtures = [affine_of(small, pair.encode(one.image)) for one in style]
        expected = sum(
            one.weight * (a @ own[0].flatten(1).double() + b) for one, (a, b) in zip(style, mixtures, strict=True)
        )
        assert_close(result, pair.decode(expected.view_as(own[0])[None].float()), rtol=1e-4, atol=1e-4)
        assert largest(result - whole(style, [pair])) > 0.01, "it is not the exact form"

    @pytest.mark.parametrize("name", STYLES)
    def test_has_no_seams(self, name: str, tmp_path: Path):
        pairs, told = random_pairs(), {"stats": "thumbnail", "thumb_size": 64}
        small, large = (by_tiles(tmp_path, STYLES[name], pairs, tile=tile, **told) for tile in (64, 320))
        assert largest(small - large) < 1e-4

    def test_of_a_picture_that_is_small_itself_is_the_exact_form(self, tmp_path: Path):
        pairs = random_pairs([4, 2])
        result = by_tiles(tmp_path, STYLES["masks"], pairs, stats="thumbnail", thumb_size=256)
        assert largest(result - whole(STYLES["masks"], pairs)) < 1e-4


def affine_of(content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Li et al.'s equations in the fewest words: matrix and bias, for features of full rank."""
    (own, own_mean), (other, other_mean) = (
        (torch.cov(f[0].flatten(1).double()), f[0].double().mean((1, 2))[:, None]) for f in (content, style)
    )
    matrix = root(other) @ torch.linalg.pinv(root(own), atol=0.1, rtol=0)
    return matrix, other_mean - matrix @ own_mean


def root(covariance: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(covariance)
    return (left * torch.where(values > 1e-2, values, 0).sqrt()) @ right


class TestMemory:
    """2,048 x 1,024 in tiles, each drawing in a process of its own."""

    def test_the_peak_does_not_grow_with_the_picture(self):
        growth = peak_mib(1024, 2048, 128) - peak_mib(512, 512, 128)
        assert growth < picture_mib(1024, 2048) - picture_mib(512, 512), "not even the picture itself is held"

    def test_the_peak_grows_with_the_tile(self):
        widest = 4 * max(WIDTHS) * 1024 * 1024 / 2**20
        assert peak_mib(1024, 1024, 1024) > peak_mib(1024, 1024, 64) + 2 * widest

    def test_large_pictures_are_drawn_as_in_one_piece(self, tmp_path: Path):
        source, target = (Raster(tmp_path / name, 1024, 2048) for name in ("source", "target"))
        fill(source)
        pairs = random_pairs()
        cascade.draw_tiles(source, target, STYLES["one"], pairs, tile=256, **RECIPE)
        expected = cascade.draw(source.read(0, 0, 1024, 2048), STYLES["one"], pairs, **RECIPE)
        difference = target.read(0, 0, 1024, 2048).clamp(0, 1) - expected.clamp(0, 1)
        assert largest(difference) <= TWO_LEVELS_OF_256

    @pytest.mark.slow
    @pytest.mark.timeout(7200)
    def test_10240_x_4096_are_drawn_in_the_memory_of_a_tile(self):
        """41.9 megapixels: the picture alone is 480 MiB in float32, one full-resolution tensor of 4 channels 640.

        Compared with three tiles by three, the least that have one with its halo whole.
        """
        assert peak_mib(4096, 10240, 512) - peak_mib(1536, 1536, 512) < 64


def picture_mib(height: int, width: int) -> float:
    return height * width * 3 * 4 / 2**20
