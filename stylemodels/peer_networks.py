"""The networks around the peer-regularised layer: an encoder that splits, a decoder, a critic with a reference.

Instance norms have neither gain nor bias, so channel means and deviations do not survive a layer: style has to be in
the shape of distributions. Every convolution has a bias as published; in front of a norm it has no effect.

Source: Svoboda et al. 2020 (arXiv:1906.02913), section 3, layers as in the authors' code.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import init

from stylemodels.blocks import InstanceNorm, reflect_conv
from stylemodels.features import at_least_float32
from stylemodels.peers import Code


def normed(conv: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module) -> nn.Sequential:
    """conv, instance norm without gain and bias, activation. The convolution's bias has no effect."""
    norm = InstanceNorm(conv.out_channels, affine=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm, activation=activation))


def halved(inputs: int, outputs: int) -> nn.Sequential:
    """Half the size, rounded up; zeros around the border."""
    return normed(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU())


def doubled(inputs: int, outputs: int) -> nn.Sequential:
    return normed(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU())


def start(network: nn.Module) -> None:
    """Weights of convolutions and linear layers from N(0, 0.02), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if not layer.weight.is_meta:  # there torch imports its compiler for it: seconds, 100 MB
                init.normal_(layer.weight, 0.0, 0.02)
            assert layer.bias is not None
            init.zeros_(layer.bias)


class ResBlock(nn.Sequential):
    """y = x + IN(conv(prelu(IN(conv(x))))), without an activation after the sum."""

    def __init__(self, channels: int) -> None:
        inner = normed(reflect_conv(channels, channels, 3), nn.PReLU())
        super().__init__(inner, normed(reflect_conv(channels, channels, 3), nn.Identity()))

    def forward(self, features: Tensor) -> Tensor:
        first, second = self
        result: Tensor = features + second(first(features))
        return result


class Encoded(NamedTuple):
    """What E sees in pictures."""

    code: Code  # content (N, 4w, H/4, W/4), style (N, 8w, H/4, W/4): the global half first, the same at every place
    middle: Tensor  # (N, 2w, H/2, W/2)


class SplitEncoder(nn.Module):
    """E: pictures (N, 3, H, W) in [-1, 1], sides from 33 px, to content and style. Sizes are rounded up."""

    def __init__(self, width: int, res_blocks: int, *, global_style: bool) -> None:
        super().__init__()
        self.sizes = (4 * width, 8 * width)
        self.pre = nn.Sequential(normed(reflect_conv(3, width, 7), nn.ReLU()), halved(width, 2 * width))
        self.main = nn.Sequential(
            halved(2 * width, 4 * width),
            *(ResBlock(4 * width) for _ in range(res_blocks)),
            normed(nn.Conv2d(4 * width, sum(self.sizes), 1), nn.ReLU()),
        )
        self.glob = nn.Sequential(*(halved(4 * width, 4 * width) for _ in range(3))) if global_style else None

    def forward(self, images: Tensor) -> Encoded:
        middle = self.pre(images)
        content, style = self.main(middle).split(self.sizes, dim=1)
        if self.glob is not None:
            seen, local = style.chunk(2, dim=1)
            style = torch.cat([self.glob(seen).mean((2, 3), keepdim=True).expand_as(local), local], dim=1)
        return Encoded(Code(content, style), middle)


class Decoder(nn.Module):
    """D, and D~: a code to pictures (N, 3, 4h, 4w) in [-1, 1]."""

    def __init__(self, width: int, res_blocks: int) -> None:
        super().__init__()
        self.merge = normed(nn.Conv2d(12 * width, 4 * width, 1), nn.ReLU())
        self.trunk = nn.Sequential(*(ResBlock(4 * width) for _ in range(res_blocks)))
        self.up = nn.Sequential(doubled(4 * width, 2 * width), doubled(2 * width, width))
        self.out = reflect_conv(width, 3, 7)

    def forward(self, code: Code) -> Tensor:
        features = self.up(self.trunk(self.merge(code.joined())))
        return at_least_float32(self.out(features)).tanh()


class Critic(nn.Module):
    """C: how much every patch of a picture looks like one of the reference's class. Noise is seen in training only."""

    def __init__(self, width: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        leaky = nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 4, stride=2, padding=2),
            leaky,
            normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=2), leaky),
            normed(nn.Conv2d(2 * width, 4 * width, 4, padding=2), leaky),
            normed(nn.Conv2d(4 * width, 8 * width, 4, padding=2), leaky),
            nn.Conv2d(8 * width, 1, 4, padding=2),
        )

    def forward(self, judged: Tensor, reference: Tensor) -> Tensor:
        """Two pictures (N, 3, H, W) of one size, in [-1, 1] -> scores (N, 1, h, w), float32. Else ValueError."""
        if judged.shape != reference.shape:
            raise ValueError(f"a picture {tuple(judged.shape)} was given with a reference {tuple(reference.shape)}")
        seen = torch.cat([judged, reference], dim=1)
        if self.training and self.noise:
            seen = seen + self.noise * torch.randn_like(seen)
        return at_least_float32(self.layers(seen))
