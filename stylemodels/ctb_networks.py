"""The networks of the content transformation block's method: E, T, D and the two discriminators.

Pictures are RGB in [-1, 1]. Every network is told the side of the window of its norms, in pixels of the picture, and
divides it by what each layer's stride asks for. Convolutions in front of a norm and in front of a logit have no bias.
Source: Kotovenko et al. 2019 (arXiv:2003.08407), with the layouts of Sanakoyeu et al. 2018 (arXiv:1807.10201), which it
builds on, and of Kotovenko et al. 2019b, the same authors' next paper (ICCV).
"""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.functional import adaptive_max_pool2d, interpolate, leaky_relu, pad, relu

from stylemodels.adversarial import Verdict
from stylemodels.local_norm import LocalNorm, NormForm

SLOPE = 0.2  # of the leaky ReLUs
BORDER_PX = 15  # reflected around a picture, so that four strides give exactly 1/16 of its sides
CODE_PX = 16  # pixels to a position of a code, along each side
MIN_SIZE_PX = 64  # of a picture that a discriminator sees: one position of the last of seven scales
MIN_WINDOW_PX = 32  # one position of a code's norm
STD, CUT = 0.02, 2.0  # of all weights at the start: a normal distribution, cut off at two standard deviations


class ContentEncoder(nn.Module):
    """E: pictures (N, 3, H, W), sides multiples of 16, to codes (N, 8 * width, H / 16, W / 16)."""

    def __init__(self, width: int, norms: NormForm) -> None:
        super().__init__()
        widths = (3, width, width, 2 * width, 4 * width, 8 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, 1 if inputs == 3 else 2, bias=False) for inputs, outputs in pairwise(widths)
        )
        self.norms = nn.ModuleList(norms.layer(channels) for channels in widths[1:])
        start(self)

    def forward(self, pictures: Tensor, window: int) -> Tensor:
        features = pad(pictures, (BORDER_PX,) * 4, mode="reflect")
        for conv, norm, part in zip(self.convs, self.norms, (2, 4, 8, 8, 16), strict=True):
            features = relu(norm(conv(features), window // part))
        return features


class ResidualBlock(nn.Module):
    """y = x + lrelu(norm(conv(lrelu(norm(conv(x))))))."""

    def __init__(self, channels: int, norms: NormForm) -> None:
        super().__init__()
        self.conv1, self.norm1 = plain_conv(channels, channels, 3), norms.layer(channels)
        self.conv2, self.norm2 = plain_conv(channels, channels, 3), norms.layer(channels)

    def forward(self, code: Tensor, window: int) -> Tensor:
        inner = leaky_relu(self.norm1(self.conv1(code), window // 32), SLOPE)
        return code + leaky_relu(self.norm2(self.conv2(inner), window // 32), SLOPE)


class ContentTransformation(nn.Module):
    """T: codes to codes, by residual blocks."""

    def __init__(self, channels: int, blocks: int, norms: NormForm, *, identity: bool) -> None:
        """identity: it starts as one, by gains of 0 at the end of each block, and so without effect on E and D."""
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, norms) for _ in range(blocks))
        start(self)
        for block in self.blocks if identity else ():
            assert isinstance(block, ResidualBlock)
            init.zeros_(block.norm2.weight)

    def forward(self, code: Tensor, window: int) -> Tensor:
        for block in self.blocks:
            code = block(code, window)
        return code


class StyleDecoder(nn.Module):
    """D: codes (N, 8 * width, h, w) to pictures (N, 3, 16 * h, 16 * w) in [-1, 1]."""

    def __init__(self, width: int, blocks: int, norms: NormForm) -> None:
        super().__init__()
        widths = (8 * width, 8 * width, 4 * width, 2 * width, width)
        self.blocks = nn.ModuleList(ResidualBlock(widths[0], norms) for _ in range(blocks))
        self.convs = nn.ModuleList(plain_conv(inputs, outputs, 3) for inputs, outputs in pairwise(widths))
        self.norms = nn.ModuleList(norms.layer(channels) for channels in widths[1:])
        self.out_conv = plain_conv(width, 3, 7)
        start(self)

    def forward(self, code: Tensor, window: int) -> Tensor:
        for block in self.blocks:
            code = block(code, window)
        features = code
        for conv, norm, part in zip(self.convs, self.norms, (16, 8, 4, 2), strict=True):
            features = relu(norm(conv(interpolate(features, scale_factor=2)), window // part))
        pictures: Tensor = 2 * self.out_conv(features).to(code.dtype).sigmoid() - 1
        return pictures


class StyleDiscriminator(nn.Module):
    """D_s: is a picture (N, 3, H, W), sides from 64, an artwork, place by place, and which scene does it show?

    A map of logits is taken at seven scales and goes on to the next one; the answers follow from all seven maps.
    """

    def __init__(self, width: int, scenes: int, norms: NormForm, conditioning: str) -> None:
        """width: f. conditioning: "ac" tells scenes, "projection" is told them, "none" knows of none."""
        super().__init__()
        widths = (2 * width, 2 * width, 4 * width, 8 * width, 8 * width, 16 * width, 16 * width)
        inputs = (3, *(channels + 1 for channels in widths))
        self.convs = nn.ModuleList(SameConv(i, o, 5, 2) for i, o in zip(inputs, widths, strict=False))
        last = norms._replace(kind="group")  # its map is a few positions large
        self.norms = nn.ModuleList(norms.layer(channels) for channels in widths[:-1])
        self.norms.append(last.layer(widths[-1]))
        kernels = (5, 10, 3, 10, 3, 6, 3)
        self.predictions = nn.ModuleList(SameConv(c, 1, k) for c, k in zip(widths, kernels, strict=True))
        self.head = SameConv(len(widths), 1, 5)
        self.scenes = SceneHead(len(widths), scenes) if conditioning == "ac" else None
        self.embedding = nn.Embedding(scenes, widths[-1]) if conditioning == "projection" else None
        start(self)

    def forward(self, pictures: Tensor, window: int, labels: Tensor | None = None) -> Verdict:
        """labels: (N,), the scenes that a projection is told; without them it judges whatever the scene."""
        half = (-(-pictures.shape[-2] // 2), -(-pictures.shape[-1] // 2))
        features, seen, maps = pictures, pictures, []
        layers = zip(self.convs, self.norms, self.predictions, (4, 8, 16, 32, 32, 32, 32), strict=True)
        for conv, norm, predict, part in layers:
            features = leaky_relu(norm(conv(seen), window // part), SLOPE)
            logits = predict(features)
            maps.append(interpolate(logits, half, mode="bilinear", align_corners=False))
            seen = torch.cat([features, logits], 1)
        stack = torch.cat(maps, 1)
        told = projection(self.embedding, features, labels)
        return Verdict(self.head(stack) + told, None if self.scenes is None else self.scenes(stack))


class SceneHead(nn.Module):
    """Seven maps of logits to the scene's class."""

    def __init__(self, maps: int, scenes: int) -> None:
        super().__init__()
        self.conv = SameConv(maps, scenes, 5)
        self.layers = nn.Sequential(
            nn.Linear(scenes, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, scenes)
        )

    def forward(self, maps: Tensor) -> Tensor:
        classes: Tensor = self.layers(adaptive_max_pool2d(self.conv(maps), 1).flatten(1))
        return classes


class ContentDiscriminator(nn.Module):
    """D_c: is a code (N, channels, h, w) that of an artwork, place by place, and of which class is the object?"""

    def __init__(self, channels: int, width: int, classes: int, norms: NormForm, conditioning: str) -> None:
        """width: f. conditioning: as `StyleDiscriminator`'s."""
        super().__init__()
        widths = (channels, 4 * width, 8 * width)
        self.convs = nn.ModuleList(SameConv(i, o, 5, 2) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(norms.layer(count) for count in widths[1:])
        self.head = SameConv(widths[-1], 1, 3)
        self.objects = nn.Linear(widths[-1], classes) if conditioning == "ac" else None
        self.embedding = nn.Embedding(classes, widths[-1]) if conditioning == "projection" else None
        start(self)

    def forward(self, codes: Tensor, window: int, labels: Tensor | None = None) -> Verdict:
        features = codes
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = leaky_relu(norm(conv(features), window // 32), SLOPE)
        told = projection(self.embedding, features, labels)
        classes = None if self.objects is None else self.objects(features.mean((2, 3)))
        return Verdict(self.head(features) + told, classes)


def projection(embedding: nn.Embedding | None, features: Tensor, labels: Tensor | None) -> Tensor | float:
    """What a class adds to the logits: <embed(c), mean of the features>, (N, 1, 1, 1).

    Source: Miyato & Koyama 2018 (arXiv:1802.05637), equation 3.
    """
    if embedding is None or labels is None:
        return 0.0
    products: Tensor = embedding(labels) * features.mean((2, 3))
    return products.sum(1).view(-1, 1, 1, 1)


class SameConv(nn.Conv2d):
    """A convolution without bias that gives ceil(side / stride), zeros around; one more to the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        border: list[int] = []
        for side in (features.shape[-1], features.shape[-2]):
            short = max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            border += [short // 2, short - short // 2]
        return super().forward(pad(features, border))


def plain_conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution without bias that keeps the size by reflecting the border."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)


def start(network: nn.Module) -> None:
    """Small weights from a normal distribution without its tails, and zero biases, for all but the norms."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            truncated_normal_(layer.weight)
        if isinstance(layer, nn.Linear):
            init.zeros_(layer.bias)


@torch.no_grad()
def truncated_normal_(weight: Tensor) -> None:
    """By the inverse of the distribution: `init.trunc_normal_` looks at its numbers, and a cost's tensors have none."""
    limit = math.erf(CUT / math.sqrt(2))
    weight.uniform_(-limit, limit).erfinv_().mul_(STD * math.sqrt(2))


class ExplicitForm(nn.Module):
    """content -> D(T(E(content))), pictures in [0, 1], with windows as ONNX can say them."""

    def __init__(self, *networks: nn.Module, window: int) -> None:
        super().__init__()
        self.window = window
        self.networks = nn.ModuleList(in_matrix_form(deepcopy(network)) for network in networks)

    def forward(self, content: Tensor) -> Tensor:
        values = 2 * content - 1
        for network in self.networks:
            values = network(values, self.window)
        return (values + 1) / 2


def in_matrix_form(network: nn.Module) -> nn.Module:
    """Have the norms of `network` compute what ONNX can say; returns it."""
    for layer in network.modules():
        if isinstance(layer, LocalNorm):
            layer.form = "matrix"
    return network


def check_channels(width: int, f: int, norms: NormForm) -> None:
    """Raise ValueError that names the setting by which a layer's channels do not come out even in groups."""
    for name, base in (("width", width), ("f", f)):
        for channels in (times * base for times in (1, 2, 4, 8, 16)):
            if norms.kind != "instance" and channels % min(norms.group, channels):
                raise ValueError(
                    f"{name}: {base} gives a layer of {channels} channels, which are no whole groups of "
                    f"{norms.group} (lfn_group)"
                )
