"""The recipes by which training pictures are cut and varied, each against another way to say it."""

import colorsys
import math

import numpy as np
import pytest
import torch

from stylemodels import augment
from stylemodels.augment import cut
from stylemodels.data import generator
from stylemodels.images import decode, to_float
from stylemodels.method import Stream
from tests import images

PICTURE = decode(images.jpeg(96, 64, seed=3)).contiguous()
RECIPES = ("none", "flip", "tpfr", "ctb", "ctb-artwork", "cifar", "imagenet")


class Told:
    """A generator that gives what the test says, in order."""

    def __init__(self, *values) -> None:
        self.values = list(values)

    def uniform(self, low=0.0, high=1.0, size=None):
        return self.values.pop(0)

    integers = permutation = uniform


def stream(recipe, *, size=32, **options) -> Stream:
    return Stream("photos", count=1, size=size, augment=recipe, **options)


def drawn(recipe, key, picture=PICTURE, **options):
    return cut(picture, stream(recipe, **options), generator(key), generator(f"couple/{key}"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_draw_is_a_function_of_its_key_alone(recipe):
    first, again, other = (drawn(recipe, key) for key in ("a", "a", "b"))
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_crop_as_large_as_the_picture_can_be_had(recipe):
    assert drawn(recipe, "a", PICTURE[:, :, :64], size=64).shape == (3, 64, 64)


def test_the_middle_is_the_middle():
    assert torch.equal(drawn("none", "a", centre=True), PICTURE[:, 16:48, 32:64])
    flipped = [drawn("flip", str(key), centre=True) for key in range(8)]
    assert {tuple(f.sum((0, 1)).tolist()) for f in flipped} == {
        tuple(p.sum((0, 1)).tolist()) for p in (PICTURE[:, 16:48, 32:64], PICTURE[:, 16:48, 32:64].flip(2))
    }


# --- colours ---


def test_hue_saturation_and_value_are_those_of_the_standard_library():
    image = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0.0, 0.5, 1.0
    expected = [colorsys.rgb_to_hsv(*pixel) for pixel in image.flatten(1).T.tolist()]
    found = torch.stack(augment.to_hsv(image)).flatten(1).T
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(augment.from_hsv(*augment.to_hsv(image)), image, atol=1e-12)
    turned = augment.from_hsv(found[:, 0] - 2.75, found[:, 1], found[:, 2]).T
    by_hand = [colorsys.hsv_to_rgb((h - 2.75) % 1, s, v) for h, s, v in expected]
    assert torch.allclose(turned, torch.tensor(by_hand, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("which", "factor", "expected"),
    [
        (0, 0.5, lambda x, grey: 0.5 * x),
        (1, 0.5, lambda x, grey: 0.5 * x + 0.5 * grey.mean()),
        (2, 0.0, lambda x, grey: grey.expand(3, -1, -1)),
        (2, 1.5, lambda x, grey: (1.5 * x - 0.5 * grey).clamp(0, 1)),
        (0, 2.0, lambda x, grey: (2 * x).clamp(max=1)),
    ],
)
def test_brightness_contrast_and_saturation(which, factor, expected):
    image = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1))
    grey = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None]
    factors = np.ones(3)
    factors[which] = factor
    found = augment.jittered(image, 0.5, Told(factors, 0.0, [which]))
    assert torch.allclose(found, expected(image, grey), atol=1e-6)


def test_no_jitter_leaves_a_piece_of_the_picture():
    piece = drawn("tpfr", "a", load_size=64, scale_jitter=0.0, color_jitter=0.0)
    windows = PICTURE.unfold(1, 32, 1).unfold(2, 32, 1).int()
    distance = [(windows - p.int()[:, None, None]).abs().amax((0, 3, 4)).min() for p in (piece, piece.flip(2))]
    assert min(distance) <= 1, "but for rounding"


# --- geometry ---


def test_a_warp_by_the_identity_is_a_crop_and_a_quarter_turn_turns_it():
    image = to_float(PICTURE)
    middle = (10 + 7.5, 20 + 7.5)
    crop = image[:, 10:26, 20:36]
    assert torch.allclose(augment.warped(image, np.eye(2), middle, 16), crop, atol=1e-5)
    turned = augment.warped(image, augment.rotation(math.pi / 2), middle, 16)
    assert torch.allclose(turned, crop.rot90(1, (1, 2)), atol=1e-4)


def test_a_warp_samples_between_pixels_where_its_matrix_says():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    plane = torch.stack([y, x, 2 * y - x])
    matrix = np.array([[0.9, 0.2], [-0.3, 1.1]])
    found = augment.warped(plane, matrix, (30.0, 45.0), 8)
    for i in range(8):
        for j in range(8):
            at_y = 30 + 0.9 * (i - 3.5) + 0.2 * (j - 3.5)
            at_x = 45 - 0.3 * (i - 3.5) + 1.1 * (j - 3.5)
            assert found[:, i, j].tolist() == pytest.approx([at_y, at_x, 2 * at_y - at_x], abs=1e-3)


def test_outside_its_borders_a_picture_is_mirrored():
    image = to_float(PICTURE)
    found = augment.warped(image, np.eye(2), (-0.5, 7.5), 16)
    assert torch.allclose(found[:, 8:], image[:, :8, :16], atol=1e-5)
    assert torch.allclose(found[:, :8], image[:, :8, :16].flip(1), atol=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "shorter"),
    [
        (800, 600, 1200),  # twice
        (1200, 600, 900),  # the longer side ends at 1800
        (4000, 3000, 1350),
        (300, 200, 800),  # twice would leave 600 x 400
        (200, 300, 800),
    ],
)
def test_photographs_of_a_content_transformation_block_are_enlarged(width, height, shorter):
    assert augment.ctb_shorter(width, height, 2) == shorter


@pytest.mark.parametrize(("width", "height", "shorter"), [(1200, 600, 600), (4000, 3000, 1350), (700, 500, 800)])
def test_its_artworks_are_not_enlarged_but_where_they_are_small(width, height, shorter):
    assert augment.ctb_shorter(width, height, 1) == shorter


def test_its_artworks_show_twice_as_much_in_a_crop_as_its_photographs():
    ramp = torch.arange(900).div(4).to(torch.uint8).expand(3, 810, 900)
    slopes = []
    for recipe in ("ctb", "ctb-artwork"):
        still = Told(1.0, 3, 5, 0.0, 0, np.zeros((2, 2)), np.zeros(3), 0)
        row = cut(ramp, stream(recipe, size=200), still, still)[0, 0].float()
        slopes.append(float(row[-1] - row[0]))
    assert slopes[1] == pytest.approx(2 * slopes[0], rel=0.05)


def test_a_content_transformation_block_without_chance_is_a_crop():
    told = Told(1.0, 3, 5, 0.4, 0, np.zeros((2, 2)), np.zeros(3), 0)
    piece = cut(PICTURE, stream("ctb", load_size=64), told, told)
    assert (piece.int() - PICTURE[:, 3:35, 5:37].int()).abs().max() <= 1
    assert told.values == []


def test_scales_stay_within_their_bounds_and_pictures_wait_at_the_largest():
    wide = stream("tpfr", load_size=40, scale_jitter=0.25)
    assert augment.stored_shorter(wide) == 50
    assert augment.stored_shorter(stream("tpfr", load_size=40)) == 44
    assert augment.stored_shorter(stream("ctb", load_size=40)) == 48
    assert augment.stored_shorter(stream("flip", load_size=40, scale_jitter=0.25)) == 40
    ramp = torch.arange(96, dtype=torch.uint8).expand(3, 64, 96)
    slopes = []
    for key in range(60):
        piece = drawn("tpfr", str(key), ramp, load_size=40, scale_jitter=0.25, color_jitter=0.0)
        slopes.append(abs(float(piece[0, 0, -4]) - float(piece[0, 0, 3])) / (32 - 7))
    shorter = [64 / slope for slope in slopes]
    assert min(shorter) >= 30 * 0.95
    assert max(shorter) <= 50 * 1.05
    assert max(shorter) - min(shorter) > 8


# --- classifiers' recipes ---


def test_a_small_picture_moves_in_a_black_border_of_an_eighth():
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    offsets = set()
    for key in range(150):
        piece = drawn("cifar", str(key), white)
        rows, columns = (piece[0] > 0).any(1).nonzero(), (piece[0] > 0).any(0).nonzero()
        assert (piece[0] > 0).sum() == len(rows) * len(columns)
        assert min(len(rows), len(columns)) >= 28
        offsets.add((32 - len(rows), 32 - len(columns)))
    assert {rows for rows, _ in offsets} == {columns for _, columns in offsets} == {0, 1, 2, 3, 4}


def test_a_resized_crop_has_a_share_of_the_area_and_an_aspect_of_the_published_ranges():
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    ramps = torch.stack([y, x, x]).to(torch.uint8)
    shares, aspects = [], []
    for key in range(200):
        piece = augment.resized_crop(ramps, 64, generator(str(key))).float()
        height, width = ((piece[c].flatten()[-1] - piece[c, 0, 0]).item() * 64 / 63 for c in (0, 1))
        shares.append(height * width / 128**2)
        aspects.append(width / height)
    assert min(shares) > 0.06
    assert 0.8 < max(shares) < 1.05
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert 0.7 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.4


def test_a_strip_that_no_try_fits_gives_its_middle():
    strip = torch.zeros(3, 16, 256, dtype=torch.uint8)
    strip[:, :, 118:138] = 200  # the middle 21 px, 4:3 of its height
    assert (augment.resized_crop(strip, 32, Told(*[1.0, 0.0] * 10))[:, :, 3:-3] >= 199).all()
