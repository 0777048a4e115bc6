"""The unrolled network; checks 2 to 6 of paper 11."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad, relu
from torch.testing import assert_close

from stylemodels.style_filters import Weighted
from stylemodels.unrolled import BMode, GradientStep, Solver, through
from tests.stylemodels.toy import photos

CHANNELS, WIDTHS = (8, 16, 32, 64), (8, 9, 10, 11)
ONES = [1.0] * 4
MODES: tuple[BMode, ...] = ("adjoint", "accumulate", "separate")


def lively(step: nn.Module) -> nn.Module:
    """With random numbers where a fresh network has zeros."""
    torch.manual_seed(1)
    for parameter in step.parameters():
        if parameter.count_nonzero() == 0:
            nn.init.normal_(parameter, std=0.1)
    return step.double()


@pytest.fixture
def step() -> GradientStep:
    torch.manual_seed(0)
    made = lively(GradientStep(CHANNELS, WIDTHS, "adjoint"))
    assert isinstance(made, GradientStep)
    return made


def grams(seed: int, count: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = [torch.rand(count, c, 50, generator=random, dtype=torch.float64) for c in CHANNELS]
    return [values @ values.transpose(1, 2) / 50 for values in features]


def whole(seed: int) -> list[list[Weighted]]:
    return [[Weighted(gram, 1.0)] for gram in grams(seed)]


CONTENT = photos(1, 32).double()


def test_the_trunk_halves_the_picture_between_its_taps(step: GradientStep):
    levels = step.f(CONTENT)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 32, 32), (9, 16, 16), (10, 8, 8), (11, 4, 4)]
    convs, norms = step.f.convs, step.f.norms
    features = CONTENT
    for n, level in enumerate(levels):
        features = max_pool2d(features, 2) if n else features
        features = conv2d(pad(features, (1, 1, 1, 1), mode="reflect"), convs[n].weight, convs[n].bias)
        centred = features - features.mean((2, 3), keepdim=True)
        normal = centred / (features.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        features = relu(normal * norms[n].weight[:, None, None] + norms[n].bias[:, None, None])
        assert_close(level, features)


def test_positions_are_rows_of_the_filtered_features():
    """f W and not f W^T: with the transposed matrix G and H would have changed places."""
    features, matrix = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 6, dtype=torch.float64)
    found = through(features, matrix)
    for n in range(2):
        assert_close(found[n].flatten(1).T, features[n].flatten(1).T @ matrix[n])


def test_check_6_a_filter_is_d_by_d(step: GradientStep):
    gram = grams(0)[2]
    assert_close(step.matrix(2, gram)[0], step.g[2].T @ gram[0] @ step.h[2])
    assert step.matrix(2, gram).shape == (1, 10, 10)


@pytest.mark.parametrize(("b_mode", "count"), [("adjoint", 699_104), ("separate", 849_644)])
def test_check_6_a_step_has_the_parameters_of_the_reproduction(b_mode: BMode, count: int):
    with torch.device("meta"):
        made = GradientStep((64, 128, 256, 512), (32, 64, 128, 128), b_mode)
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def test_filters_start_at_random_with_a_variance_of_one_over_d_root_c():
    torch.manual_seed(0)
    made = GradientStep((64, 128), (32, 64), "adjoint")
    for c, d, g, h in zip((64, 128), (32, 64), made.g, made.h, strict=True):
        for matrix in (g, h):
            assert_close(matrix.std().item(), (d * c**0.5) ** -0.5, rtol=0.1, atol=0)
        assert not torch.equal(g, h)


def test_the_adjoint_form_is_back_propagation_through_convolutions_behind_f_s_gates(step: GradientStep):
    """A network of f's gates and up-sampled convolutions, written as a sum over the taps: equation 10."""
    levels, z = step.f(CONTENT), [torch.randn_like(level) for level in step.f(CONTENT)]
    total = torch.zeros_like(CONTENT)
    for tap in range(4):
        y = z[tap]
        for level in range(tap, -1, -1):
            gated = torch.where(levels[level] > 0, y, torch.zeros_like(y))
            y = conv2d(pad(gated, (1, 1, 1, 1), mode="reflect"), step.b.k[level].weight)
            y = interpolate(y, scale_factor=2, mode="nearest") if level else y
        total += y
    assert_close(step.b(z, levels, ONES), total)


def test_check_3_the_adjoint_form_is_a_sum_over_the_taps(step: GradientStep):
    parts = [step(CONTENT, whole(0), [float(tap == n) for tap in range(4)]) for n in range(4)]
    assert_close(torch.stack(parts).sum(0), step(CONTENT, whole(0), ONES), rtol=1e-5, atol=1e-8)
    doubled = [[Weighted(2 * gram, weight) for gram, weight in filters] for filters in whole(0)]
    assert_close(step(CONTENT, doubled, ONES), 2 * step(CONTENT, whole(0), ONES), rtol=1e-5, atol=1e-8)


def test_check_4_a_step_is_linear_in_the_mixture(step: GradientStep):
    mixture = [[Weighted(0.3 * a + 0.7 * b, 1.0)] for a, b in zip(grams(0), grams(1), strict=True)]
    expected = 0.3 * step(CONTENT, whole(0), ONES) + 0.7 * step(CONTENT, whole(1), ONES)
    assert_close(step(CONTENT, mixture, ONES), expected, rtol=1e-5, atol=1e-8)


def by_mask(left: Tensor, first: int, second: int) -> list[list[Weighted]]:
    """One style to the left of a picture, another to its right."""
    filters = []
    for n, (a, b) in enumerate(zip(grams(first), grams(second), strict=True)):
        mask = left[..., :: 2**n, :: 2**n]
        filters.append([Weighted(a, mask), Weighted(b, 1 - mask)])
    return filters


def test_check_5_without_instance_norm_each_side_of_a_border_is_drawn_as_by_its_style_alone(step: GradientStep):
    step.f.norms = nn.ModuleList(nn.Identity() for _ in WIDTHS)
    content = photos(1, 128).double()
    left = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
    left[..., :64] = 1
    found = step(content, by_mask(left, 0, 1), ONES)
    reach = 24  # b looks one position to each side at strides 8, 4, 2 and 1, and up-sampling rounds: 15 px and a cell
    assert_close(found[..., : 64 - reach], step(content, whole(0), ONES)[..., : 64 - reach])
    assert_close(found[..., 64 + reach :], step(content, whole(1), ONES)[..., 64 + reach :])
    assert_close(step(content, by_mask(left, 0, 0), ONES), step(content, whole(0), ONES))
    assert_close(step(content, by_mask(torch.ones_like(left), 0, 1), ONES), step(content, whole(0), ONES))


@pytest.mark.parametrize("b_mode", MODES)
def test_check_2_a_fresh_network_returns_the_content_bit_by_bit(b_mode: BMode):
    fresh = Solver(CHANNELS, WIDTHS, steps=3, share=False, b_mode=b_mode).double()
    assert all(torch.equal(picture, CONTENT) for picture in fresh(CONTENT, whole(0)))


@pytest.mark.parametrize("b_mode", MODES)
def test_check_2_so_does_a_trained_one_without_a_step_length_or_a_lambda(b_mode: BMode):
    trained = lively(Solver(CHANNELS, WIDTHS, steps=2, share=False, b_mode=b_mode))
    *_, moved = trained(CONTENT, whole(0))
    assert not torch.equal(moved, CONTENT)
    assert all(torch.equal(picture, CONTENT) for picture in trained(CONTENT, whole(0), mu=0.0))
    if b_mode != "accumulate":
        assert all(torch.equal(picture, CONTENT) for picture in trained(CONTENT, whole(0), [[0.0] * 4] * 2))


def test_every_step_is_the_picture_less_its_gradient():
    solver = lively(Solver(CHANNELS, WIDTHS, steps=3, share=False, b_mode="adjoint"))
    first, second, third = solver(CONTENT, whole(0), [[1, 0, 0.5, 2]] * 3, 0.8)
    assert_close(first, CONTENT - 0.8 * solver.g[0](CONTENT, whole(0), [1, 0, 0.5, 2]))
    assert_close(third, second - 0.8 * solver.g[2](second, whole(0), [1, 0, 0.5, 2]))


def test_steps_may_share_one_gradient():
    shared = lively(Solver(CHANNELS, WIDTHS, steps=2, share=True, b_mode="adjoint"))
    first, second = shared(CONTENT, whole(0))
    assert len(shared.g) == 1
    assert_close(second, first - shared.g[0](first, whole(0), ONES))


def test_the_separate_form_has_a_decoder_for_each_tap():
    made = lively(GradientStep(CHANNELS, WIDTHS, "separate"))
    z = [torch.randn_like(level) for level in made.f(CONTENT)]
    decoder = made.b.decoders[2]
    y = z[2]
    for n in (2, 1):
        y = interpolate(relu(decoder.convs[n](y)), scale_factor=2)
    alone = decoder.last(relu(decoder.convs[0](y)))
    assert_close(made.b(z, [], [0, 0, 3, 0]), 3 * alone)
    parts = [made.b(z, [], [float(tap == n) for tap in range(4)]) for n in range(4)]
    assert_close(made.b(z, [], ONES), torch.stack(parts).sum(0))


def test_the_accumulated_form_adds_every_tap_on_the_way_up():
    made = lively(GradientStep(CHANNELS, WIDTHS, "accumulate"))
    decoder, scales = made.b.decoder, [1.0, 2.0, 0.5, 3.0]
    z = [torch.randn_like(level) for level in made.f(CONTENT)]
    y = 3 * z[3]
    for n in (3, 2, 1):
        y = interpolate(relu(decoder.convs[n](y)), scale_factor=2) + scales[n - 1] * z[n - 1]
    assert_close(made.b(z, [], scales), decoder.last(relu(decoder.convs[0](y))))
