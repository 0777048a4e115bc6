from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from stylemodels.features import gram
from stylemodels.losses import content_loss, gram_loss, statistics_loss, tv_loss


def maps(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"relu1_2": (2, 3, 8, 6), "relu2_2": (2, 5, 4, 3)}
    return {tap: torch.randn(*shape, generator=random, dtype=torch.float64) for tap, shape in shapes.items()}


def test_check_2_content_loss_is_the_mean_squared_difference():
    a, b = maps(0)["relu1_2"], maps(1)["relu1_2"]
    expected = torch.einsum("nchw,nchw->", a - b, a - b) / (2 * 3 * 8 * 6)
    assert_close(content_loss(a, b), expected, rtol=1e-10, atol=1e-10)


def test_check_2_style_loss_agrees_with_einsum_in_float64():
    output, style = maps(0), maps(1)
    targets = {tap: gram(style[tap][:1]) for tap in style}
    expected = 0.0
    for tap, x in output.items():
        count, channels, height, width = x.shape
        own = torch.einsum("nihw,njhw->nij", x, x) / (channels * height * width)
        its = torch.einsum("ihw,jhw->ij", style[tap][0], style[tap][0]) / (channels * height * width)
        expected += ((own - its) ** 2).sum().item() / (count * channels * channels)
    assert_close(gram_loss(output, targets).item(), expected, rtol=1e-10, atol=1e-10)


def test_check_2_style_loss_is_zero_for_the_style_itself_at_any_size():
    output = {tap: x.tile(1, 1, 2, 2) for tap, x in maps(0).items()}
    targets = {tap: gram(x) for tap, x in maps(0).items()}
    assert gram_loss(output, targets).item() < 1e-25


def test_one_gram_serves_a_batch_of_any_size():
    output, target = maps(0), {tap: gram(x[:1]) for tap, x in maps(1).items()}
    alone = [gram_loss({tap: x[n : n + 1] for tap, x in output.items()}, target) for n in range(2)]
    assert_close(gram_loss(output, target), torch.stack(alone).mean())


@pytest.mark.parametrize("correction", [0, 1])
def test_statistics_loss_is_the_mean_squared_difference_of_means_and_of_stds(correction: int):
    output, style = maps(0)["relu1_2"], maps(1)["relu1_2"][..., :3]
    expected = 0.0
    for n in range(2):
        for c in range(3):
            own, wanted = output[n, c], style[n, c]
            stds = [(x.var(correction=correction) + 1e-5).sqrt() for x in (own, wanted)]
            expected += ((own.mean() - wanted.mean()) ** 2 + (stds[0] - stds[1]) ** 2).item() / 6
    assert statistics_loss(output, style, correction=correction).item() == pytest.approx(expected, rel=1e-10)


def test_one_style_s_statistics_serve_a_batch():
    output, style = maps(0)["relu2_2"], maps(1)["relu2_2"][:1]
    assert_close(statistics_loss(output, style), statistics_loss(output, style.expand(2, -1, -1, -1)))


def test_tv_loss_agrees_with_a_loop_over_neighbours():
    images = maps(0)["relu1_2"]
    across, down = [], []
    for plane in images.flatten(0, 1).tolist():
        for y, row in enumerate(plane):
            across += [(row[x + 1] - row[x]) ** 2 for x in range(len(row) - 1)]
            down += [(plane[y + 1][x] - row[x]) ** 2 for x in range(len(row)) if y + 1 < len(plane)]
    expected = sum(across) / len(across) + sum(down) / len(down)
    assert tv_loss(images).item() == pytest.approx(expected, rel=1e-10)
    assert tv_loss(torch.ones(1, 3, 5, 5)).item() == 0
