"""The decoder of Avatar-Net: an encoder in reverse that takes over a style's statistics at every depth on the way.

Source: Sheng et al. 2018 (arXiv:1805.03857), as Yao et al. 2019 (arXiv:1901.05127) use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from stylemodels.blocks import start_decoder

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


class HourglassDecoder(nn.Module):
    """Back from relu4_1 to a picture, taking over a picture's statistics at each of the depths between."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        one, two, three, four = (channels[tap] for tap in TAPS)
        self.inv_conv4_1 = nn.Conv2d(four, three, 3, padding=1)
        self.inv_conv3_4 = nn.Conv2d(three, three, 3, padding=1)
        self.inv_conv3_3 = nn.Conv2d(three, three, 3, padding=1)
        self.inv_conv3_2 = nn.Conv2d(three, three, 3, padding=1)
        self.inv_conv3_1 = nn.Conv2d(three, two, 3, padding=1)
        self.inv_conv2_2 = nn.Conv2d(two, two, 3, padding=1)
        self.inv_conv2_1 = nn.Conv2d(two, one, 3, padding=1)
        self.inv_conv1_2 = nn.Conv2d(one, one, 3, padding=1)
        self.inv_conv1_1 = nn.Conv2d(one, 3, 3, padding=1)
        start_decoder(self)  # the mid-grey that the paper adds to the picture is where the last bias begins

    def forward(self, features: Tensor, adapt: Callable[[Tensor, str], Tensor]) -> Tensor:
        """(N, C, h, w) -> (N, 3, 8h, 8w), not clamped. adapt: gives features of a tap's size another's statistics."""
        features = doubled(relu(self.inv_conv4_1(features)))
        for layer in (self.inv_conv3_4, self.inv_conv3_3, self.inv_conv3_2):
            features = relu(layer(features))
        features = doubled(relu(self.inv_conv3_1(adapt(features, "relu3_1"))))
        features = adapt(relu(self.inv_conv2_2(features)), "relu2_1")
        features = doubled(relu(self.inv_conv2_1(features)))
        features = adapt(relu(self.inv_conv1_2(features)), "relu1_1")
        image: Tensor = self.inv_conv1_1(features)
        return image


def doubled(features: Tensor) -> Tensor:
    return interpolate(features, scale_factor=2)
