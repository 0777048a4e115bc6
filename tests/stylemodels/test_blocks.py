from __future__ import annotations

import torch

from stylemodels.blocks import FastStyleNetwork, norm_parameters
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


@torch.inference_mode()
def test_check_1_the_network_gives_pictures_of_its_input_s_size_rounded_up_to_four():
    network = FastStyleNetwork(width=4, res_blocks=1)
    output = network(photos(1, 256))
    assert output.shape == (1, 3, 256, 256)
    assert 0 < output.min() < output.max() < 1
    assert network(torch.rand(1, 3, 65, 67)).shape == (1, 3, 68, 68)
    assert network(torch.rand(1, 3, 5, 5)).shape == (1, 3, 8, 8)
