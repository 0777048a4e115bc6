"""What is wrong with a stylisation, against loops and einsum in float64; checks 4, 5 and 8 of ETNet's reproduction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.encoders import Encoder, load_encoder
from stylemodels.error_encoder import (
    DEEPEST,
    TAPS,
    ErrorEncoder,
    Target,
    coarser,
    content_terms,
    distance,
    finer,
    heat,
    position_gram,
    style_terms,
)
from stylemodels.method import Style
from tests.stylemodels.toy import paintings, photos


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random").double()


@pytest.fixture(scope="module")
def measure(encoder: Encoder) -> ErrorEncoder:
    return ErrorEncoder(encoder, "sqrt", "unit")


def pair(size: int = 32) -> tuple[Tensor, Tensor]:
    """A photo and a painting in [-1, 1], float64, of different sizes."""
    return 2 * photos(1, size).double() - 1, 2 * paintings(1, size + 16).double() - 1


def gram_of(features: Tensor) -> np.ndarray:
    """By loops over positions: (1, C, h, w) -> (C, C)."""
    columns = features[0].flatten(1).T.numpy()
    return np.asarray(sum(np.outer(column, column) for column in columns) / len(columns))


def test_check_5_coarser_takes_every_second_pixel_and_undoes_finer():
    images = photos(2, 32)
    assert torch.equal(coarser(coarser(images)), images[..., ::4, ::4])
    assert torch.equal(coarser(images, 2), images[..., ::4, ::4])
    assert torch.equal(coarser(images, 0), images)
    assert torch.equal(coarser(finer(images)), images)
    assert torch.equal(finer(images)[..., 1::2, 1::2], images)


@pytest.mark.parametrize("gram_error", ["sqrt", "plain"])
def test_errors_are_differences_of_features_and_of_gram_matrices_or_their_roots(encoder: Encoder, gram_error: str):
    measure = ErrorEncoder(encoder, gram_error, "unit")
    content, style = pair()
    drawn = 2 * photos(1, 32, seed=5).double() - 1
    own, its, theirs = (encoder((image + 1) / 2, TAPS) for image in (drawn, content, style))
    errors = measure.errors(measure.seen(drawn), measure.target(content, [Style(style)]))
    assert_close(errors.content, own[DEEPEST] - its[DEEPEST])
    for tap in TAPS:
        first, second = gram_of(own[tap]), gram_of(theirs[tap])
        expected = np.sqrt(first) - np.sqrt(second) if gram_error == "sqrt" else first - second
        assert_close(errors.style[tap][0].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_raw_input_shows_the_encoder_the_numbers_as_they_are(encoder: Encoder):
    image, _ = pair()
    assert torch.equal(ErrorEncoder(encoder, "sqrt", "raw").seen(image)[DEEPEST], encoder(image, [DEEPEST])[DEEPEST])


def test_several_styles_are_the_mean_of_their_gram_matrices_by_weight(measure: ErrorEncoder):
    content, first = pair()
    second = 2 * paintings(1, 40, seed=3).double() - 1
    both = measure.target(content, [Style(first, 0.25), Style(second, 0.75)])
    for tap in TAPS:
        parts = [gram_of(measure.seen(image)[tap]) for image in (first, second)]
        assert_close(both.grams[tap][0].numpy(), 0.25 * parts[0] + 0.75 * parts[1])


def test_check_4_a_picture_that_is_its_own_content_and_style_has_no_errors(measure: ErrorEncoder):
    image, _ = pair()
    errors = measure.errors(measure.seen(image), measure.target(image, [Style(image)]))
    assert not errors.content.any()
    assert not any(error.any() for error in errors.style.values())


def test_errors_that_are_hidden_are_zeros_of_the_same_shapes(measure: ErrorEncoder):
    content, style = pair()
    errors = measure.errors(measure.seen(style), measure.target(style, [Style(content)]))
    hidden = errors.none()
    assert hidden.content.shape == errors.content.shape
    assert not hidden.content.any()
    assert {tap: e.shape for tap, e in hidden.style.items()} == {tap: e.shape for tap, e in errors.style.items()}
    assert not any(error.any() for error in hidden.style.values())


# --- 8 ---------------------------------------------------------------------------------------------------------------


def scales(
    measure: ErrorEncoder, finest: int, *, official: bool
) -> tuple[dict[int, dict[str, Tensor]], dict[int, Target]]:
    """Features of an output, of all taps where the loss looks, and targets, for the scales 3 ... finest."""
    content, style = pair(64)
    output = 2 * photos(1, 64, seed=7).double() - 1
    seen, targets = {}, {}
    for k in range(3, finest - 1, -1):
        step = 2 ** (k - finest)
        small = [image[..., ::step, ::step] for image in (output, content, style)]
        seen[k] = dict(measure.seen(small[0], TAPS if official or k == finest else (DEEPEST,)))
        targets[k] = measure.target(small[1], [Style(small[2])])
    return seen, targets


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("finest", [3, 1])
def test_check_8_the_terms_of_equations_7_and_8(measure: ErrorEncoder, finest: int, official: bool):
    seen, targets = scales(measure, finest, official=official)
    content, style = content_terms(seen, targets), style_terms(seen, targets)
    count = {(3, False): (1, 4), (3, True): (1, 4), (1, False): (3, 6), (1, True): (3, 12)}
    assert (len(content), len(style)) == count[finest, official], "for k = 3 there are no coarser scales"
    expected_content = [float(((seen[k][DEEPEST] - targets[k].content) ** 2).mean()) for k in seen]
    expected_style = [
        ((gram_of(features) - targets[k].grams[tap][0].numpy()) ** 2).mean()
        for k, taps in seen.items()
        for tap, features in taps.items()
    ]
    assert_close(torch.stack(content).tolist(), expected_content, rtol=1e-9, atol=1e-12)
    assert_close(torch.stack(style).tolist(), expected_style, rtol=1e-9, atol=1e-12)


def test_gram_matrices_are_divided_by_the_positions_only():
    features = torch.rand(2, 5, 3, 4, dtype=torch.float64)
    expected = np.einsum("nchw,ndhw->ncd", features.numpy(), features.numpy()) / 12
    assert_close(position_gram(features).numpy(), expected)


def test_check_8_identical_pictures_have_no_content_and_style_loss(measure: ErrorEncoder):
    image, _ = pair()
    seen: Mapping[int, Mapping[str, Tensor]] = {3: measure.seen(image)}
    targets = {3: measure.target(image, [Style(image)])}
    assert not any([*content_terms(seen, targets), *style_terms(seen, targets)])


def test_a_difference_s_length_is_the_norm_of_each_picture_s_and_has_a_gradient_where_it_is_zero():
    first, second = torch.rand(2, 3, 4, 5, 5, dtype=torch.float64)
    expected = np.mean([np.linalg.norm((a - b).numpy().ravel()) for a, b in zip(first, second, strict=True)])
    assert_close(float(distance(first, second, "l2")), float(expected), rtol=1e-7, atol=0)
    same = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(same, first, "l2"), same)
    assert not gradient.any(), "no nan"


# --- heat maps -------------------------------------------------------------------------------------------------------


def test_heat_goes_from_black_for_the_same_over_red_and_yellow_to_white_for_nothing_in_common():
    own = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 5)
    goal = torch.tensor([1.0, 0.5, 0.2, 0.0, 0.0]).view(1, 1, 1, 5)
    colours = heat(own, goal)[0, :, 0].T
    expected = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert_close(colours, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


def test_error_maps_are_black_for_a_picture_that_is_as_it_should_be(measure: ErrorEncoder):
    content, style = pair()
    seen = measure.seen(content)[DEEPEST]
    for shown in measure.maps(seen, measure.target(content, [Style(content)])):
        assert shown.shape == (1, 3, 4, 4)
        assert shown.max() < 1e-12
    content_error, style_error = measure.maps(seen, measure.target(content, [Style(style)]))
    assert content_error.max() < 1e-12
    assert 0.05 < style_error.max() <= 1
