from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torch.testing import assert_close

from stylemodels.blocks import FastStyleNetwork, InstanceNorm, MirroredDecoder, norm_parameters
from stylemodels.vgg import VGG16_DEPTHS, VGG_WIDTHS, Vgg
from tests.stylemodels.toy import photos


def test_check_1_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        network = FastStyleNetwork()
        vgg = Vgg(VGG16_DEPTHS, VGG_WIDTHS, padding="zero", pooling="max")
    assert sum(p.numel() for p in network.parameters()) == 1_679_235
    assert sum(p.numel() for p in norm_parameters(network).values()) == 3_200
    up_to_relu4_3 = [conv for name, conv in vgg.convolutions.items() if name < "conv5"]
    assert sum(p.numel() for conv in up_to_relu4_3 for p in conv.parameters()) == 7_635_264


def test_an_instance_norm_may_have_neither_gain_nor_bias_and_is_in_float32():
    norm = InstanceNorm(3, affine=False)
    assert list(norm.parameters()) == []
    features = 5 * torch.randn(2, 3, 6, 7) + 2
    mean, variance = features.mean((2, 3), keepdim=True), features.var((2, 3), correction=0, keepdim=True)
    assert_close(norm(features), (features - mean) / (variance + 1e-5).sqrt())
    assert norm(features.bfloat16()).dtype == torch.float32
    assert norm(features.double()).dtype == torch.float64


@torch.inference_mode()
def test_check_1_the_network_gives_pictures_of_its_input_s_size_rounded_up_to_four():
    network = FastStyleNetwork(width=4, res_blocks=1)
    output = network(photos(1, 256))
    assert output.shape == (1, 3, 256, 256)
    assert 0 < output.min() < output.max() < 1
    assert network(torch.rand(1, 3, 65, 67)).shape == (1, 3, 68, 68)
    assert network(torch.rand(1, 3, 5, 5)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("blocks", "parameters"), [(1, 1_731), (2, 112_451), (3, 555_075), (4, 3_505_219), (5, 12_944_451)]
)
def test_decoders_have_as_many_parameters_as_the_layers_that_they_mirror(blocks: int, parameters: int):
    """What was published for the five levels; 3,505,219 is AdaIN's decoder."""
    widths = VGG_WIDTHS[:blocks][::-1]
    with torch.device("meta"):
        decoder = MirroredDecoder(widths)
    assert sum(p.numel() for p in decoder.parameters()) == parameters
    layers = [(64, 3)]
    for block in range(2, blocks + 1):
        deep, shallow = VGG_WIDTHS[block - 1], VGG_WIDTHS[block - 2]
        within = {2: 1, 3: 1, 4: 3, 5: 3}[block]  # convolutions of the block above that keep their width
        layers += [(deep, shallow), *[(shallow, shallow)] * within]
    assert parameters == sum(9 * inputs * outputs + outputs for inputs, outputs in layers)


@torch.inference_mode()
def test_a_decoder_is_its_encoder_in_reverse():
    torch.manual_seed(0)
    decoder = MirroredDecoder((5, 4, 3)).double()
    features = torch.rand(1, 5, 3, 4, dtype=torch.float64)

    def conv(name: str, x: Tensor) -> Tensor:
        weight, bias = (decoder.get_parameter(f"{name}.{kind}") for kind in ("weight", "bias"))
        return conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    x = doubled(conv("conv31", features).clamp_min(0))
    x = conv("conv22", x).clamp_min(0)
    x = doubled(conv("conv21", x).clamp_min(0))
    x = conv("conv11", conv("conv12", x).clamp_min(0))
    assert_close(decoder(features), x, rtol=1e-12, atol=1e-12)
    assert decoder(features).shape == (1, 3, 12, 16)


@torch.inference_mode()
def test_a_decoder_may_end_with_a_relu():
    torch.manual_seed(0)
    plain, ending = MirroredDecoder((4, 3)), MirroredDecoder((4, 3), final_relu=True)
    ending.load_state_dict(plain.state_dict())
    features = 500 * torch.rand(1, 4, 4, 4)
    assert plain(features).min() < 0
    assert torch.equal(ending(features), plain(features).clamp_min(0))


@torch.inference_mode()
def test_a_new_decoder_shows_mid_grey_and_lets_different_features_through():
    torch.manual_seed(0)
    features = torch.rand(2, 96, 8, 8)
    images = MirroredDecoder((96, 48, 24, 16))(features)
    assert (images - 0.5).abs().max() < 0.2
    assert (images[0] - images[1]).std() > 0.002
