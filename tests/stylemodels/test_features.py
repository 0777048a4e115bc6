from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from stylemodels.features import adain, gram, mean_std


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_and_std_are_those_of_each_channel_s_positions():
    x = features(2, 3, 4, 5)
    mean, std = mean_std(x)
    assert mean.shape == std.shape == (2, 3, 1, 1)
    for n in range(2):
        for c in range(3):
            values = x[n, c].flatten().tolist()
            expected = sum(values) / 20
            spread = sum((v - expected) ** 2 for v in values) / 20
            assert mean[n, c].item() == pytest.approx(expected, abs=1e-12)
            assert std[n, c].item() == pytest.approx((spread + 1e-5) ** 0.5, abs=1e-12)


def test_a_constant_channel_has_a_std_of_the_root_of_eps():
    assert_close(mean_std(torch.ones(1, 1, 3, 3), eps=1e-4)[1].item(), 1e-2)


def test_one_position_has_no_spread():
    with pytest.raises(ValueError, match="1 x 1"):
        mean_std(torch.ones(1, 4, 1, 1))


def test_check_2_gram_agrees_with_a_loop_in_float64():
    x = features(2, 3, 4, 5)
    result = gram(x)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                expected = (x[n, i] * x[n, j]).sum() / (3 * 4 * 5)
                assert_close(result[n, i, j], expected, rtol=1e-10, atol=1e-10)


def test_check_2_gram_does_not_change_when_features_are_tiled():
    x = features(1, 4, 3, 5)
    assert_close(gram(x.tile(1, 1, 2, 2)), gram(x), rtol=1e-12, atol=1e-12)


def test_statistics_stay_in_float32_under_autocast():
    x = features(1, 4, 8, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gram(x), gram(x.clone()))
        assert gram(x).dtype == torch.float32
        assert mean_std(x.bfloat16())[0].dtype == torch.float32
        inside = gram(x)
    assert torch.equal(inside, gram(x))


def test_corrected_variances_are_divided_by_one_position_less():
    x = features(2, 3, 4, 5)
    _, std = mean_std(x, eps=0.0, correction=1)
    assert_close(std, x.std(dim=(2, 3), correction=1, keepdim=True), rtol=1e-12, atol=1e-12)


def test_adain_moves_statistics_and_nothing_else():
    content, style = features(2, 5, 7, 9), 3 * features(2, 5, 4, 6, seed=1) + 1
    output = adain(content, style)
    for own, wanted in zip(mean_std(output, eps=0.0), mean_std(style, eps=0.0), strict=True):
        assert_close(own, wanted, rtol=1e-4, atol=1e-6)
    ranks = [x.flatten(2).argsort(dim=2) for x in (content, output)]
    assert torch.equal(*ranks), "an affine map with positive slope keeps the order"


def test_adain_agrees_with_a_loop_in_float64():
    content, style = features(1, 3, 4, 5), features(1, 3, 2, 7, seed=1)
    result = adain(content, style)
    for c in range(3):
        own, wanted = content[0, c].flatten().tolist(), style[0, c].flatten().tolist()
        means = [sum(values) / len(values) for values in (own, wanted)]
        stds = [
            (sum((v - mean) ** 2 for v in values) / len(values) + 1e-5) ** 0.5
            for values, mean in zip((own, wanted), means, strict=True)
        ]
        expected = [(v - means[0]) / stds[0] * stds[1] + means[1] for v in own]
        assert_close(result[0, c].flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_adain_to_oneself_changes_nothing_and_a_constant_channel_takes_the_style_s_mean():
    content, style = features(1, 3, 4, 4), features(1, 3, 5, 3, seed=1)
    content[:, 1] = 7.0
    assert_close(adain(content, content), content, rtol=1e-12, atol=1e-12)
    assert_close(adain(content, style)[0, 1], style[0, 1].mean().expand(4, 4), rtol=1e-10, atol=1e-10)
