"""How far a frame has moved."""

from __future__ import annotations

import pytest
import torch

from stylemodels.flow import Shift, shift_between, shifted
from tests.stylemodels.toy import photos


@pytest.mark.parametrize("by", [Shift(0, 0), Shift(3, 0), Shift(0, -5), Shift(-4, 7)])
@pytest.mark.parametrize("size", [(64, 64), (63, 80)])
def test_a_pan_is_found(by: Shift, size: tuple[int, int]):
    scene = photos(1, 112)
    height, width = size
    before = scene[..., 16 : 16 + height, 16 : 16 + width]
    now = scene[..., 16 - by.down : 16 - by.down + height, 16 - by.right : 16 - by.right + width]
    assert shift_between(before, now) == by


def test_a_picture_is_moved_by_whole_pixels_and_repeats_its_border():
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    assert shifted(picture, Shift(1, 0))[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert shifted(picture, Shift(0, -2))[0, 0].tolist() == [[2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]


def test_what_has_no_detail_has_not_moved():
    grey = torch.full((1, 3, 40, 48), 0.5)
    assert shift_between(grey, grey) == Shift(0, 0)
    assert shift_between(torch.zeros_like(grey), grey) == Shift(0, 0)
