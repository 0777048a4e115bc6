"""Masks and label maps from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylemodels.maps import load_mask, load_regions
from tests import images

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def colours(*rows: list[tuple[int, int, int]]) -> bytes:
    return images.encoded(np.array(rows, dtype=np.uint8), "PNG")


def indices(rows: Any, palette: list[int]) -> bytes:
    levels = np.array(rows, dtype=np.uint8)
    indexed = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    indexed.putpalette(palette)
    return images.encoded(indexed, "PNG")


def test_a_mask_is_its_gray_level_from_black_0_to_white_1(tmp_path: Path):
    levels = np.array([[0, 51], [255, 102]], dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(images.encoded(levels, "PNG"))
    mask = load_mask(tmp_path / "mask.png")
    torch.testing.assert_close(mask, torch.tensor([[[[0.0, 0.2], [1.0, 0.4]]]]))


def test_a_mask_lies_as_one_looks_at_it():
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[0] = 255
    upright = load_mask(images.rotated(stored, 6))[0, 0]
    assert torch.equal(upright, torch.tensor([[0.0, 1.0]] * 3)), "turned clockwise by a quarter"


def test_the_same_colour_is_the_same_label_in_both_maps():
    regions = load_regions(colours([RED, GREEN, RED]), colours([GREEN], [BLUE]))
    content, style = regions.content, regions.style
    assert content.shape == (1, 1, 1, 3)
    assert style.shape == (1, 1, 2, 1)
    assert content.dtype == style.dtype == torch.int64
    assert content[0, 0, 0, 0] == content[0, 0, 0, 2] != content[0, 0, 0, 1]
    assert style[0, 0, 0, 0] == content[0, 0, 0, 1]
    assert style[0, 0, 1, 0] not in content


def test_palette_indices_are_labels_whatever_their_colours():
    content = indices([[0, 1, 2]], [*RED, *GREEN, *BLUE])
    style = indices([[2, 1, 0]], [*BLUE, *BLUE, *BLUE])
    regions = load_regions(content, style)
    assert regions.content.flatten().tolist() == [0, 1, 2]
    assert regions.style.flatten().tolist() == [2, 1, 0]


def test_a_palette_and_a_colour_picture_meet_by_colour():
    regions = load_regions(indices([[0, 1]], [*RED, *GREEN]), colours([GREEN, RED]))
    assert regions.content.flatten().tolist() == regions.style.flatten().tolist()[::-1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (images.jpeg(), "not a usable PNG"),
        (images.png()[:200], "not a usable PNG"),
        (images.png(), "colours, a label map has at most 256"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(bad: bytes, said: str):
    good = colours([RED, GREEN])
    with pytest.raises(ValueError, match=f"^content_labels: .*{said}"):
        load_regions(bad, good)
    with pytest.raises(ValueError, match=f"^style_labels: .*{said}"):
        load_regions(good, bad)


def test_a_label_map_that_is_too_large_is_refused_by_its_head():
    with pytest.raises(ValueError, match=r"^content_labels: .*million pixels"):
        load_regions(images.header_bomb(2_000, 2_000), colours([RED]), max_pixels=1_000_000)
