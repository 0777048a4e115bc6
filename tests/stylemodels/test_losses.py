from __future__ import annotations

import torch
from torch.testing import assert_close

from stylemodels.features import gram
from stylemodels.losses import content_loss, gram_loss


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
