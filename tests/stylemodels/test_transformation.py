"""The transformation module of paper 09: its checks 1 to 5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.blocks import MirroredDecoder
from stylemodels.transformation import Transform, second_moment, side
from stylemodels.vgg import VGG19_DEPTHS, VGG_WIDTHS, named_convolutions
from stylemodels.whitening import Moments, wct_map
from tests.stylemodels.linear_models import random_transform


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Like an encoder's: not negative, mean near 1."""
    return 1.25 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).abs()


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_check_1_all_networks_have_the_published_number_of_parameters():
    rgb_to_bgr = 3 * 3 + 3  # a convolution of the published encoders; here mean and std are no parameters
    with torch.device("meta"):
        convolutions = named_convolutions(VGG19_DEPTHS, VGG_WIDTHS)
        counts = [parameters(convolution) for convolution in convolutions.values()]
        ends = {tap: list(convolutions).index(tap) + 1 for tap in ("conv3_1", "conv4_1", "conv5_1")}
        encoders = {tap: sum(counts[:end]) + rgb_to_bgr for tap, end in ends.items()}
        r31, r41 = Transform(256, 32), Transform(512, 32)
        decoders = [parameters(MirroredDecoder(widths)) for widths in ((256, 128, 64), (512, 256, 128, 64))]
    assert encoders == {"conv3_1": 555_340, "conv4_1": 3_505_740, "conv5_1": 12_944_972}
    assert decoders == [555_075, 3_505_219]
    assert (parameters(r31), parameters(r31.cnet)) == (2_890_464, 1_436_896)
    assert (parameters(r41), parameters(r41.snet)) == (5_156_192, 2_561_440)
    assert parameters(r31.cnet.fc) == 1_049_600


@pytest.mark.parametrize("sizes", [((9, 7), (4, 12)), ((6, 6), (6, 6))])
def test_check_2_t_is_m_by_m_and_the_output_as_large_as_the_content(sizes: tuple[tuple[int, int], tuple[int, int]]):
    transform = Transform(64, 32)
    content, style = features(2, 64, *sizes[0]), features(2, 64, *sizes[1], seed=1)
    own, painted = side(transform.cnet, content), side(transform.snet, style)
    assert (painted.matrix @ own.matrix).shape == (2, 32, 32)
    assert transform(content, style).shape == content.shape


def test_check_3_the_module_folds_into_one_affine_map_of_rank_m():
    transform, content, style = random_transform(), features(2, 24, 9, 7), features(2, 24, 5, 6, seed=1)
    folded = transform.folded(side(transform.cnet, content), side(transform.snet, style))
    assert_close(folded(content), transform(content, style), rtol=0, atol=1e-5)
    assert (torch.linalg.matrix_rank(folded.matrix) == 8).all()


def test_check_4_the_mean_of_the_output_is_the_style_s_and_what_biases_add():
    transform = random_transform().double()
    content, style = (features(1, 24, 8, 8, seed=seed, dtype=torch.float64) for seed in (0, 1))
    t = side(transform.snet, style).matrix @ side(transform.cnet, content).matrix
    unzip, biases = transform.unzip.weight[..., 0, 0], (transform.unzip.bias, transform.compress.bias)
    expected = style.mean((2, 3)) + biases[0] + (unzip @ t @ biases[1])
    assert_close(transform(content, style).mean((2, 3)), expected, rtol=0, atol=1e-12)


def test_check_5_every_solution_of_the_paper_s_equation_3_solves_2_and_leaves_affinities_alone():
    random = torch.Generator().manual_seed(0)
    content = torch.randn(1, 6, 1, 40, generator=random, dtype=torch.float64)
    style = torch.randn(6, 6, generator=random, dtype=torch.float64) @ torch.randn(6, 25, generator=random).double()
    orthogonal = torch.linalg.qr(torch.randn(6, 6, generator=random, dtype=torch.float64)).Q
    of_content, of_style = Moments.of(content), Moments.of(style[None, :, None])

    def root(covariance: Tensor, power: float) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        return vectors @ torch.diag(values**power) @ vectors.T

    own, target = of_content.covariance[0], of_style.covariance[0]
    t = root(target, 0.5) @ orthogonal @ root(own, -0.5)
    assert_close(t @ own @ t.T, target, rtol=0, atol=1e-10)

    centred = content[0, :, 0] - of_content.mean[0][:, None]

    def affinity(values: Tensor) -> Tensor:
        return values.T @ torch.linalg.inv(values @ values.T) @ values

    assert_close(affinity(t @ centred), affinity(centred), rtol=0, atol=1e-10)
    whitening_and_colouring = wct_map(of_content, of_style, eps=0).matrix[0]
    assert_close(root(target, 0.5) @ root(own, -0.5), whitening_and_colouring, rtol=0, atol=1e-10)


def test_the_second_moment_is_not_centred_and_does_not_grow_with_the_picture():
    values = features(1, 4, 30, dtype=torch.float64)
    expected = np.einsum("ip,jp->ij", values[0].numpy(), values[0].numpy()) / 30
    assert_close(second_moment(values)[0], torch.from_numpy(expected))
    assert_close(second_moment(torch.cat([values, values], 2)), second_moment(values))
