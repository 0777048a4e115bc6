"""Residual networks that classify pictures, with a gate at the end of every branch.

    y = relu(gate(branch(x)) + shortcut(x))

Two layouts: for small pictures (depth 6 n + 2, three stages) and for large ones (ResNet-18 to 152, four stages).
He et al. 2016 (arXiv:1512.03385), with gates where Lee, Kim & Nam 2019 (arXiv:1903.10829) put them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.functional import pad, relu

Gate = Callable[[int, int], nn.Module]  # of so many channels, on maps of this side
Shortcut = Literal["A", "B"]
Block = Callable[[int, int, int, nn.Module, Shortcut], nn.Module]

LARGE: Mapping[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4  # of a bottleneck


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias: a batch norm follows. Zeros around."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Subsample(nn.Module):
    """Every second position.

    Before a 1x1 convolution it does what a stride of 2 does. PyTorch's own weight gradient of that one writes past its
    memory on some CPUs (seen with 2.13 in channels-last without AVX-512).
    """

    def forward(self, features: Tensor) -> Tensor:
        return features[..., ::2, ::2]


class PaddedShortcut(nn.Module):
    """Option A: every second position, and zeros for the channels that are new; nothing is learnt."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.step = more, stride

    def forward(self, features: Tensor) -> Tensor:
        return pad(features[..., :: self.step, :: self.step], (0, 0, 0, 0, 0, self.more))


def shortcut(inputs: int, outputs: int, stride: int, option: Shortcut) -> nn.Module:
    """The way past a block: nothing where the shape stays, else option A, or B: a 1x1 convolution and batch norm."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if option == "A":
        return PaddedShortcut(outputs - inputs, stride)
    first = [Subsample()] if stride == 2 else []
    return nn.Sequential(*first, conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """3x3, 3x3."""

    def __init__(self, inputs: int, planes: int, stride: int, gate: nn.Module, option: Shortcut) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.norm2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.gate = gate
        self.shortcut = shortcut(inputs, planes, stride, option)

    def forward(self, features: Tensor) -> Tensor:
        inner = relu(self.norm1(self.conv1(features)))
        return relu(self.gate(self.norm2(self.conv2(inner))) + self.shortcut(features))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the planes."""

    def __init__(self, inputs: int, planes: int, stride: int, gate: nn.Module, option: Shortcut) -> None:
        super().__init__()
        outputs = EXPANSION * planes
        self.conv1, self.norm1 = conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.norm2 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.norm3 = conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.gate = gate
        self.shortcut = shortcut(inputs, outputs, stride, option)

    def forward(self, features: Tensor) -> Tensor:
        inner = relu(self.norm1(self.conv1(features)))
        inner = relu(self.norm2(self.conv2(inner)))
        return relu(self.gate(self.norm3(self.conv3(inner))) + self.shortcut(features))


class ResNet(nn.Module):
    """Stem, stages, mean over all positions, one linear layer. Pictures (N, 3, H, W) give scores (N, classes)."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                init.normal_(layer.weight, 0, math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


def small_resnet(
    depth: int, classes: int, gate: Gate, *, width: int = 16, option: Shortcut = "B", size: int = 32
) -> ResNet:
    """For pictures of about 32 px: three stages of n = (depth - 2) / 6 basic blocks, `width` channels and doubling.

    Raises ValueError for a depth that is not 6 n + 2.
    """
    blocks, left = divmod(depth - 2, 6)
    if left or blocks < 1:
        raise ValueError(f"depth: {depth} was given, a network for small pictures has 6 n + 2 layers: 8, 14, 20, ...")
    stem = nn.Sequential(conv(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    stages, channels = staged(BasicBlock, 1, [blocks] * 3, width, gate, option, size)
    return ResNet(stem, stages, channels, classes)


def large_resnet(depth: int, classes: int, gate: Gate, *, width: int = 64, size: int = 224) -> ResNet:
    """For pictures of about 224 px: ResNet-18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).

    Raises ValueError for another depth.
    """
    if depth not in LARGE:
        raise ValueError(f"depth: {depth} was given, allowed are {', '.join(map(str, LARGE))}")
    block, expansion = (BasicBlock, 1) if depth < 50 else (Bottleneck, EXPANSION)
    side = halved(halved(size))
    stages, channels = staged(block, expansion, LARGE[depth], width, gate, "B", side)
    stem = nn.Sequential(conv(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    return ResNet(stem, stages, channels, classes)


def staged(
    block: Block, expansion: int, blocks: Sequence[int], width: int, gate: Gate, option: Shortcut, side: int
) -> tuple[list[nn.Module], int]:
    """The stages, each but the first at half the size and twice the channels, and the last one's channels."""
    stages: list[nn.Module] = []
    inputs = width
    for number, count in enumerate(blocks):
        planes = width * 2**number
        side = side if number == 0 else halved(side)
        stage = []
        for place in range(count):
            stride = 2 if number > 0 and place == 0 else 1
            stage.append(block(inputs, planes, stride, gate(expansion * planes, side), option))
            inputs = expansion * planes
        stages.append(nn.Sequential(*stage))
    return stages, inputs


def halved(side: int) -> int:
    """What a stride of 2 leaves."""
    return (side + 1) // 2


class Normalised(nn.Module):
    """A network behind a fixed shift and scale of the colours of pictures in [0, 1]."""

    def __init__(self, network: ResNet, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network((images - self.get_buffer("mean")) / self.get_buffer("std"))
        return scores
