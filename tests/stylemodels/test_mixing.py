"""Several styles in one picture."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from stylemodels.method import Style
from stylemodels.mixing import mixed, share_of
from tests.stylemodels.toy import photos


def parts(count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.rand(1, 5, 4, 6, generator=random) for _ in range(count)]


def test_by_weight_every_position_is_the_same_mixture():
    first, second = parts(2)
    result = mixed([first, second], [Style(photos(1, 16), weight=0.3), Style(photos(1, 16), weight=0.7)])
    assert_close(result, 0.3 * first + 0.7 * second)


def test_by_mask_every_style_has_its_place():
    first, second = parts(2)
    left = torch.zeros(1, 1, 8, 12)
    left[..., :6] = 1
    result = mixed([first, second], [Style(photos(1, 16), mask=left), Style(photos(1, 16), mask=1 - left)])
    assert torch.equal(result[..., :3], first[..., :3])
    assert torch.equal(result[..., 3:], second[..., 3:])


def test_a_style_s_share_of_a_cell_is_its_mask_s_mean_there():
    mask = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    share = share_of(Style(photos(1, 16), mask=mask), parts(1)[0])
    assert isinstance(share, torch.Tensor)
    assert share.shape == (1, 1, 4, 6)
    for y in range(4):
        for x in range(6):
            assert_close(share[0, 0, y, x], mask[0, 0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean())


def test_shares_that_sum_to_1_at_every_pixel_do_so_at_every_cell():
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 1, 32, 48, generator=random).softmax(0)
    shares = [share_of(Style(photos(1, 16), mask=mask[None]), parts(1)[0]) for mask in masks]
    assert_close(torch.cat([torch.as_tensor(share) for share in shares]).sum(0), torch.ones(1, 4, 6))


def test_a_style_alone_comes_back_bit_for_bit():
    [only] = parts(1)
    assert torch.equal(mixed([only], [Style(photos(1, 16))]), only)


def test_a_style_alone_with_a_mask_leaves_the_rest_empty():
    [only] = parts(1)
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 2:] = 1
    result = mixed([only], [Style(photos(1, 16), mask=mask)])
    assert torch.equal(result, only * mask)
