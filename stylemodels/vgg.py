"""VGG's layout at any widths: its convolutions by name, where torchvision keeps them, and what gives them unit mean.

Sources: Simonyan & Zisserman 2014 (arXiv:1409.1556); unit mean activation as in the VGG-19 of Gatys et al. 2015
(arXiv:1508.06576).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d, pad

Padding = Literal["zero", "reflect"]
Pooling = Literal["max", "avg"]

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG19_DEPTHS = (2, 2, 4, 4, 4)  # convolutions of each block
VGG16_DEPTHS = (2, 2, 3, 3, 3)


class Layer(NamedTuple):
    """A convolution with its ReLU behind it."""

    tap: str  # `relu4_1`
    weight: Tensor
    bias: Tensor
    pools_first: bool  # the first of every block but block 1


class Vgg(nn.Module):
    """The convolutions of a VGG, with ImageNet's mean and std taken off first."""

    mean: Tensor
    std: Tensor

    def __init__(self, depths: Sequence[int], widths: Sequence[int], *, padding: Padding, pooling: Pooling) -> None:
        super().__init__()
        self.padding, self.pooling = padding, pooling
        self.convolutions = nn.ModuleDict(named_convolutions(depths, widths))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        """`images` (N, 3, H, W) in [0, 1] -> features at `taps`, after the ReLU; no deeper than the deepest."""
        features = (images - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for layer in self.layers():
            if len(found) == len(taps):
                break
            if layer.pools_first:
                features = pooled(features, self.pooling)
            features = convolved(features, layer.weight, layer.bias, self.padding).relu_()
            if layer.tap in taps:
                found[layer.tap] = features
        return found

    def layers(self) -> Iterator[Layer]:
        """The convolutions in order."""
        for name, convolution in self.convolutions.items():
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            pools_first = name.endswith("_1") and name != "conv1_1"
            yield Layer(name.replace("conv", "relu"), convolution.weight, convolution.bias, pools_first)


def vgg_channels(depths: Sequence[int], widths: Sequence[int]) -> dict[str, int]:
    """Tap -> channels of a VGG, in order of depth."""
    return {
        f"relu{block}_{index}": width
        for block, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1)
        for index in range(1, depth + 1)
    }


def named_convolutions(depths: Sequence[int], widths: Sequence[int]) -> dict[str, nn.Module]:
    """`conv1_1` -> its 3 x 3 convolution, in order; each takes what the one before gives, the first takes RGB."""
    convolutions: dict[str, nn.Module] = {}
    before = 3
    for tap, width in vgg_channels(depths, widths).items():
        convolutions[tap.replace("relu", "conv")] = nn.Conv2d(before, width, 3)
        before = width
    return convolutions


def torchvision_names(depths: Sequence[int]) -> dict[str, str]:
    """Our names of a VGG's convolutions -> torchvision's: convolution, ReLU and pooling are counted there."""
    names: dict[str, str] = {}
    position = 0
    for block, depth in enumerate(depths, start=1):
        for index in range(1, depth + 1):
            names[f"conv{block}_{index}"] = f"features.{position}"
            position += 2
        position += 1
    return names


def tap_block(tap: str) -> int:
    """`relu4_1` -> 4."""
    return int(tap[4])


def tap_stride(tap: str) -> int:
    """Pixels of the picture to one position of the tap, along each side."""
    return 1 << (tap_block(tap) - 1)


def convolved(features: Tensor, weight: Tensor, bias: Tensor | None, padding: Padding) -> Tensor:
    """A 3 x 3 convolution that keeps the size, with zeros or the mirrored inside beyond the border."""
    if padding == "zero":
        return conv2d(features, weight, bias, padding=1)
    return conv2d(pad(features, (1, 1, 1, 1), mode="reflect"), weight, bias)


def pooled(features: Tensor, pooling: Pooling) -> Tensor:
    """Half the sides, rounded down."""
    return max_pool2d(features, 2) if pooling == "max" else avg_pool2d(features, 2)


@torch.no_grad()
def normalise(network: Vgg, pictures: Tensor) -> None:
    """Rescale every filter so that its mean activation over `pictures` (N, 3, H, W) is 1; dead ones stay.

    ReLU and pooling commute with positive factors, so the next layer takes them back and the network computes what it
    did before, up to one factor per channel.
    """
    before = torch.ones(3, dtype=torch.float64)
    features = (pictures.double() - network.mean.double()) / network.std.double()
    for layer in network.layers():
        if layer.pools_first:
            features = pooled(features, network.pooling)
        weight = layer.weight.double() * before.view(1, -1, 1, 1)
        activations = convolved(features, weight, layer.bias.double(), network.padding).relu_()
        mean = activations.mean((0, 2, 3))
        before = torch.where(mean > 0, coarse(mean), 1.0)
        layer.weight.copy_(weight / before.view(-1, 1, 1, 1))
        layer.bias.copy_(layer.bias.double() / before)
        features = activations / before.view(1, -1, 1, 1)


@torch.no_grad()
def randomise(network: Vgg) -> None:
    """He-normal filters, each centred and scaled over noise so that about half of its values live, with mean 1.

    Without the centring, filters behind the first layer mostly answer to brightness: their inputs are never negative.
    """
    random = np.random.RandomState(0)  # a stream that numpy promises never to change
    features = (calibration_pictures() - network.mean.double()) / network.std.double()
    for layer in network.layers():
        if layer.pools_first:
            features = pooled(features, network.pooling)
        he_std = (2 / layer.weight[0].numel()) ** 0.5
        weight = torch.from_numpy(random.standard_normal(tuple(layer.weight.shape)) * he_std)
        answers = convolved(features, weight, None, network.padding)
        bias = -coarse(answers.mean((0, 2, 3)))
        centred = (answers + bias.view(1, -1, 1, 1)).relu_()
        scale = coarse(1 / centred.mean((0, 2, 3)))
        layer.weight.copy_(weight * scale.view(-1, 1, 1, 1))
        layer.bias.copy_(bias * scale)
        features = centred * scale.view(1, -1, 1, 1)


def coarse(values: Tensor) -> Tensor:
    """Rounded to 12 bits, so that the order of a sum (threads, CPU) does not show in constants made from it."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 4096).round() / 4096, exponent)


def calibration_pictures(count: int = 4, side: int = 96) -> Tensor:
    """Seeded noise with as much contrast in every octave, as photographs have it: (count, 3, side, side), float64."""
    random = np.random.RandomState(1)
    pictures = torch.full((count, 3, side, side), 0.5, dtype=torch.float64)
    for cells in (2, 4, 8, 16, 32, 64):
        grey = random.standard_normal((count, 1, cells, cells))
        colour = random.standard_normal((count, 3, cells, cells))
        noise = torch.from_numpy(0.11 * grey + 0.05 * colour)
        pictures += interpolate(noise, size=(side, side), mode="bilinear", align_corners=True)
    return pictures.clamp(0, 1)
