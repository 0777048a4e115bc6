"""Styles as filters: by weight, by mask, by region; checks 1, 4 and 5 of paper 11."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.encoders import Encoder, load_encoder
from stylemodels.method import Regions, Style
from stylemodels.style_filters import FilterNorm, filters_at, mean_gram, normed, read, softened, squared_shares
from stylemodels.unrolled import through
from tests.stylemodels.toy import paintings, photos

TAPS = ("relu1_1", "relu2_1", "relu3_1")
WEIGHTS = (0.7, 1.0, 0.4)  # lambda of each tap


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random").double()


def style_energy(encoder: Encoder, images: Tensor, grams: Sequence[dict[str, Tensor]], masks: Sequence[Tensor]):
    """The masked loss as printed, from the rows of F and diagonal matrices M."""
    total = images.new_zeros(())
    for weight, (tap, features) in zip(WEIGHTS, encoder(images, TAPS).items(), strict=True):
        rows = features[0].flatten(1).T
        n, c = rows.shape
        for gram, mask in zip(grams, masks, strict=True):
            stride = mask.shape[-1] // features.shape[-1]
            m = torch.diag(mask[0, 0, ::stride, ::stride].flatten())
            total = total + weight / c**2 * ((m @ rows).T @ (m @ rows) / n - gram[tap][0]).square().sum()
    return total


@pytest.mark.parametrize("masked", [False, True])
def test_check_1_the_filtered_features_propagate_to_the_exact_gradient_of_the_style_energy(
    encoder: Encoder, masked: bool
):
    """Check 1, with VGG for f, its own back-propagation for b, and G = H = I.

    The energy is quadratic in the Gram matrices of the style, so half the difference of the gradients with them and
    with their negatives is the part that they have in it.
    """
    images = photos(1, 16).double().requires_grad_()
    pictures = paintings(2, 24).double()[: 2 if masked else 1]
    # Masks whose squares sum to 1, in cells of the coarsest tap: there M^2 is the share itself.
    angles = torch.linspace(0, 1.5, 16, dtype=torch.float64).view(1, 1, 4, 4)
    angles = angles.repeat_interleave(4, -1).repeat_interleave(4, -2)
    masks = [angles.cos(), angles.sin()] if masked else [torch.ones_like(angles)]
    styles = [
        Style(picture[None], mask=mask if masked else None) for picture, mask in zip(pictures, masks, strict=True)
    ]
    painted = [read(style, encoder(style.image, TAPS), "none") for style in styles]

    def gradient(sign: float) -> Tensor:
        grams = [{tap: sign * gram for tap, gram in one.whole.items()} for one in painted]
        return torch.autograd.grad(style_energy(encoder, images, grams, masks), images)[0]

    def propagated(own: bool) -> Tensor:
        features = encoder(images, TAPS)
        total = torch.zeros_like(images)
        for weight, (tap, values) in zip(WEIGHTS, features.items(), strict=True):
            n, c = values[0, 0].numel(), values.shape[1]
            filters = filters_at(painted, tap, values.shape[-2:], feather=0)
            z = -torch.stack([share * through(values, gram) for gram, share in filters]).sum(0)
            if own:  # F^T F / n has no mask in it for one style alone
                z = z + through(values, mean_gram(values))
            total += weight * 4 / (c**2 * n) * torch.autograd.grad(values, images, z.detach(), retain_graph=True)[0]
        return total

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found - expected).norm() / expected.norm())

    assert error(propagated(own=False), (gradient(1.0) - gradient(-1.0)) / 2) < 1e-10
    if not masked:
        assert error(propagated(own=True), gradient(1.0)) < 1e-10


def test_a_gram_matrix_is_divided_by_the_style_s_own_positions(encoder: Encoder):
    values = encoder(paintings(1, 24).double(), ["relu2_1"])["relu2_1"]
    rows = values[0].flatten(1).T.numpy()
    assert_close(mean_gram(values)[0].numpy(), rows.T @ rows / len(rows))


@pytest.mark.parametrize(("form", "power"), [("none", 1.0), ("sqrt", 0.5), ("trace", 0.0)])
def test_the_norm_takes_magnitude_off_a_style(form: FilterNorm, power: float):
    features = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    gram = mean_gram(features)
    assert_close(normed(16 * gram, form), 16**power * normed(gram, form))
    scaled = features * (5 / gram.diagonal(dim1=1, dim2=2).sum(1)).view(-1, 1, 1, 1) ** ((1 - power) / 2)
    assert_close(normed(gram, form), mean_gram(scaled))
    assert normed(0 * gram, form).count_nonzero() == 0, "a black picture is no style, but no division by 0 either"


def painted_pair(encoder: Encoder, **of_first: object) -> list:
    first, second = paintings(1, 32).double(), paintings(1, 48, seed=5).double()
    styles = [Style(first, weight=0.3, **of_first), Style(second, weight=0.7)]
    return [read(style, encoder(style.image, TAPS), "sqrt") for style in styles]


def test_check_4_a_mixture_is_one_matrix(encoder: Encoder):
    first, second = painted_pair(encoder)
    (mixed,) = filters_at([first, second], "relu2_1", (8, 8), feather=0)
    assert mixed.weight == 1.0
    assert_close(mixed.gram, 0.3 * first.whole["relu2_1"] + 0.7 * second.whole["relu2_1"])


def test_check_5_masks_count_by_their_squares_where_they_overlap():
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 1, 1, 8, 8, generator=random, dtype=torch.float64)
    masks[:, ..., :4, :4] = 0
    shares = squared_shares(list(masks), (4, 4))
    small = masks.numpy().reshape(3, 4, 2, 4, 2).mean((2, 4))
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(small**2 / (small**2).sum(0))
    assert_close(torch.cat(shares)[:, 0].numpy(), expected)
    assert torch.stack(shares)[..., :2, :2].count_nonzero() == 0, "where nobody has a mask nothing is drawn"


@pytest.mark.parametrize("feather", [0, 1, 3, 40])
def test_masks_are_softened_and_still_sum_to_one(feather: int):
    mask = (torch.rand(1, 1, 9, 12, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    expected = torch.empty_like(mask)
    for y in range(9):
        for x in range(12):
            rows, columns = slice(max(y - feather, 0), y + feather + 1), slice(max(x - feather, 0), x + feather + 1)
            expected[..., y, x] = mask[..., rows, columns].mean()
    assert_close(softened(mask, feather), expected)
    assert_close(softened(mask, feather) + softened(1 - mask, feather), torch.ones_like(mask))


@pytest.mark.parametrize("by", ["mask", "region"])
def test_a_border_between_two_filters_is_soft(encoder: Encoder, by: str):
    labels = columns(0, 1, size=32)
    left, image = (labels == 0).double(), paintings(1, 32).double()
    given = {"mask": [{"mask": left}, {"mask": 1 - left}], "region": [{"regions": Regions(labels, labels)}]}[by]
    painted = [read(Style(image, **place), encoder(image, TAPS), "sqrt") for place in given]
    weights = [weight for _, weight in filters_at(painted, "relu2_1", (16, 16), feather=3)]
    expected = squared_shares([softened(left, 3), softened(1 - left, 3)], (16, 16))
    assert_close([torch.as_tensor(weight).double() for weight in weights[:2]], expected, rtol=1e-5, atol=1e-6)
    assert 0.1 < expected[0][0, 0, 0, 8] < 0.5


def columns(*labels: int, size: int) -> Tensor:
    """A label map with a column for each of `labels`."""
    return torch.tensor(labels).repeat_interleave(size // len(labels)).expand(1, 1, size, -1).clone()


def test_each_region_takes_the_filter_of_its_label_in_the_style(encoder: Encoder):
    """Label 7 is in the content only: the whole style picture paints it."""
    image = torch.cat([paintings(1, 16), photos(1, 16)], 3)[..., :16, :].double()
    style_labels = torch.cat([columns(1, size=16), columns(2, size=16)], 3)
    style = Style(image, regions=Regions(columns(2, 1, 7, 7, size=32), style_labels))
    features = encoder(image, TAPS)
    painted = read(style, features, "none")
    filters = filters_at([painted], "relu2_1", (16, 16), feather=0)
    where = torch.cat([weight for _, weight in filters])[:, 0, 0]  # the first row of each
    assert where.tolist() == [[0] * 4 + [1] * 4 + [0] * 8, [1] * 4 + [0] * 12, [0] * 8 + [1] * 8]
    halves = features["relu2_1"].chunk(2, 3)
    for (gram, _), part in zip(filters, [*halves, features["relu2_1"]], strict=True):
        assert_close(gram, mean_gram(part.contiguous()))


def test_a_region_of_a_few_positions_has_no_filter_of_its_own(encoder: Encoder):
    labels = torch.zeros(1, 1, 32, 32, dtype=torch.int64)
    labels[..., :4, :8] = 3  # two positions at stride 4
    style = Style(paintings(1, 32).double(), regions=Regions(labels, labels))
    assert list(read(style, encoder(style.image, TAPS), "none").parts) == [0]


def test_regions_of_one_style_keep_to_its_weight_beside_another(encoder: Encoder):
    labels = columns(0, 1, size=32)
    painted = painted_pair(encoder, regions=Regions(labels, labels))
    filters = filters_at(painted, "relu1_1", (32, 32), feather=4)
    shares = [torch.as_tensor(weight, dtype=torch.float64).expand(1, 1, 32, 32) for _, weight in filters]
    assert_close(torch.stack(shares[:-1]).sum(0), torch.full((1, 1, 32, 32), 0.3, dtype=torch.float64))
    assert_close(shares[-1], torch.full((1, 1, 32, 32), 0.7, dtype=torch.float64))
