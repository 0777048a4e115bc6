"""The fixed networks whose features measure content and style.

Every encoder takes RGB pictures in [0, 1] and gives features by the names of VGG's layers: `relu4_1` is the ReLU
after the first convolution of block 4, at stride 8. What an encoder does to the picture first (mean, std, BGR) is its
own affair. A ReLU is the last thing before every tap, so features are never negative.

Sources: VGG (Simonyan & Zisserman 2014, arXiv:1409.1556); the small encoder's layout and its linear embeddings Q
(Wang et al. 2020, Collaborative Distillation, arXiv:2003.08436, section 3.2 and equation 4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d, pad

from stylemodels.weights import Weights, published_tensors, shipped_tensors

EncoderName = Literal["vgg19", "vgg16", "vgg19-normalised", "small", "small-narrow", "random"]
Padding = Literal["zero", "reflect"]
Pooling = Literal["max", "avg"]
Role = Literal["content", "style"]

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG19_DEPTHS = (2, 2, 4, 4, 4)  # convolutions of each block
VGG16_DEPTHS = (2, 2, 3, 3, 3)
SMALL_DEPTHS = (2, 2, 4, 4, 1)  # VGG-19's up to relu5_1
SMALL_WIDTHS = (16, 24, 48, 96, 96)
RANDOM_WIDTHS = tuple(width // 8 for width in VGG_WIDTHS)

WEIGHTS_OF = {"vgg19": "vgg19", "vgg16": "vgg16", "vgg19-normalised": "vgg19"}  # the others need none
FIXED_PADDING_AND_POOLING = ("small", "small-narrow")  # reflect and max: they were trained so


class Encoder(nn.Module):
    """Frozen: no parameter ever needs a gradient. Gradients flow through to the picture, also second ones."""

    def __init__(self, name: str, channels: Mapping[str, int], network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.channels = dict(channels)
        self.network = network
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Features of `images` (N, 3, H, W), RGB in [0, 1]; computed no deeper than the deepest of `taps`.

        Returns tap -> (N, channels[tap], H // stride, W // stride), non-negative, in the order of `taps`.
        Raises ValueError for a tap that the encoder does not have, and for a picture too small for one.
        """
        if unknown := [tap for tap in taps if tap not in self.channels]:
            raise ValueError(f"encoder {self.name} has no tap {unknown[0]!r}; it has {', '.join(self.channels)}")
        # Reflection needs a second pixel.
        if (side := min(images.shape[-2:])) < (least := 2 * max((tap_stride(tap) for tap in taps), default=1)):
            raise ValueError(
                f"a picture's shorter side must be at least {least} px for {max(taps)}, this one's is {side}"
            )
        features: dict[str, Tensor] = self.network(images, frozenset(taps))
        return {tap: features[tap] for tap in taps}


class Vgg(nn.Module):
    """The convolutions of a VGG, with ImageNet's mean and std taken off first."""

    mean: Tensor
    std: Tensor

    def __init__(self, depths: Sequence[int], widths: Sequence[int], *, padding: Padding, pooling: Pooling) -> None:
        super().__init__()
        self.padding, self.pooling = padding, pooling
        self.convolutions = nn.ModuleDict(_convolutions(depths, widths))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        features = (images - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "conv1_1":
                features = pooled(features, self.pooling)
            features = padded_convolution(convolution, features, self.padding).relu_()
            if (tap := name.replace("conv", "relu")) in taps:
                found[tap] = features
            if len(found) == len(taps):
                break
        return found


class SmallNetwork(nn.Module):
    """VGG-19 up to relu5_1 at other widths, with a linear embedding Q of every reluN_1 into VGG's widths.

    Names are those of the published 16x network: `conv0` (RGB in [0, 1] to BGR in 0 ... 255 less Caffe's mean),
    `conv34`, `conv31_aux` (Q). Reflection padding and max pooling throughout.
    """

    def __init__(self, widths: Sequence[int] = SMALL_WIDTHS, embedded_widths: Sequence[int] = VGG_WIDTHS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv0 = nn.Conv2d(3, 3, 1)
        for name, convolution in _convolutions(SMALL_DEPTHS, widths).items():
            self.add_module(name.replace("_", ""), convolution)
        for block, (width, embedded) in enumerate(zip(widths, embedded_widths, strict=True), start=1):
            self.add_module(f"conv{block}1_aux", nn.Conv2d(width, embedded, 1))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> SmallNetwork:
        """The network that `tensors` describe, at their widths. Raises ValueError for anything else."""
        try:
            widths = [tensors[f"conv{block}1.weight"].shape[0] for block in range(1, 6)]
            embedded = [tensors[f"conv{block}1_aux.weight"].shape[0] for block in range(1, 6)]
            network = cls(widths, embedded)
            network.load_state_dict({name: tensors[name] for name in network.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"not the tensors of a small encoder: {error}") from error
        return network

    def forward(self, images: Tensor, depth: int = 5) -> list[Tensor]:
        """`images` (N, 3, H, W) in [0, 1] -> the first `depth` of relu1_1 ... relu5_1, at the network's own widths."""
        features: Tensor = self.conv0(images)
        found: list[Tensor] = []
        for block in range(1, depth + 1):
            layers = SMALL_DEPTHS[block - 1] if block < depth else 1
            for index in range(1, layers + 1):
                convolution = self.get_submodule(f"conv{block}{index}")
                features = padded_convolution(convolution, features, "reflect").relu_()
                if index == 1:
                    found.append(features)
            features = max_pool2d(features, 2)
        return found

    def embedded(self, features: Tensor, block: int) -> Tensor:
        """Q of relu`block`_1 (N, widths, H, W) -> (N, VGG's width, H, W), with either sign."""
        embedded: Tensor = self.get_submodule(f"conv{block}1_aux")(features)
        return embedded


class SmallTaps(nn.Module):
    """The small network's taps: embedded in VGG's widths, or its own divided by their root mean squares."""

    tap_rms: Tensor

    def __init__(self, network: SmallNetwork, tap_rms: Tensor, *, embed: bool) -> None:
        super().__init__()
        self.small = network
        self.embed = embed
        self.register_buffer("tap_rms", tap_rms)

    def forward(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        blocks = sorted(tap_block(tap) for tap in taps)
        features = self.small(images, blocks[-1] if blocks else 0)
        return {f"relu{block}_1": self._tap(features[block - 1], block) for block in blocks}

    def _tap(self, features: Tensor, block: int) -> Tensor:
        if self.embed:
            return self.small.embedded(features, block).relu_()
        return features / self.tap_rms[block - 1]


def tap_block(tap: str) -> int:
    """`relu4_1` -> 4."""
    return int(tap[4])


def tap_stride(tap: str) -> int:
    """Pixels of the picture to one position of the tap, along each side."""
    return 1 << (tap_block(tap) - 1)


def padded_convolution(convolution: nn.Module, features: Tensor, padding: Padding) -> Tensor:
    """A 3 x 3 convolution that keeps the size, with zeros or the mirrored inside beyond the border."""
    assert isinstance(convolution, nn.Conv2d)
    if padding == "zero":
        return conv2d(features, convolution.weight, convolution.bias, padding=1)
    return conv2d(pad(features, (1, 1, 1, 1), mode="reflect"), convolution.weight, convolution.bias)


def pooled(features: Tensor, pooling: Pooling) -> Tensor:
    return max_pool2d(features, 2) if pooling == "max" else avg_pool2d(features, 2)


def vgg_channels(depths: Sequence[int], widths: Sequence[int]) -> dict[str, int]:
    """Tap -> channels of a VGG, in order of depth."""
    return {
        f"relu{block}_{index}": width
        for block, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1)
        for index in range(1, depth + 1)
    }


def _convolutions(depths: Sequence[int], widths: Sequence[int]) -> dict[str, nn.Module]:
    convolutions: dict[str, nn.Module] = {}
    before = 3
    for tap, width in vgg_channels(depths, widths).items():
        convolutions[tap.replace("relu", "conv")] = nn.Conv2d(before, width, 3)
        before = width
    return convolutions


def _channels(name: EncoderName) -> dict[str, int]:
    match name:
        case "vgg19" | "vgg19-normalised":
            return vgg_channels(VGG19_DEPTHS, VGG_WIDTHS)
        case "vgg16":
            return vgg_channels(VGG16_DEPTHS, VGG_WIDTHS)
        case "random":
            return vgg_channels(VGG19_DEPTHS, RANDOM_WIDTHS)
        case "small":
            return {f"relu{block}_1": width for block, width in enumerate(VGG_WIDTHS, start=1)}
        case "small-narrow":
            return {f"relu{block}_1": width for block, width in enumerate(SMALL_WIDTHS, start=1)}


def load_encoder(
    name: EncoderName,
    weights: Weights | None = None,
    *,
    padding: Padding | None = None,
    pooling: Pooling | None = None,
) -> Encoder:
    """The encoder called `name`, frozen.

    weights: where the files of vgg16 and vgg19 lie; the other encoders need none.
    padding, pooling: None is the encoder's own: zero and max for vgg16 and vgg19, reflect and max for the others.

    Raises ValueError when weights are missing or damaged, or for a padding or pooling that it does not have.
    """
    if name not in get_args(EncoderName):
        raise ValueError(f"there is no encoder {name!r}; there are {', '.join(get_args(EncoderName))}")
    if name in FIXED_PADDING_AND_POOLING:
        if padding not in (None, "reflect") or pooling not in (None, "max"):
            raise ValueError(f"encoder {name} has padding reflect and pooling max, not {padding} and {pooling}")
        shipped = shipped_tensors()
        taps = SmallTaps(SmallNetwork.of(shipped), shipped["tap_rms"].clone(), embed=name == "small")
        return Encoder(name, _channels(name), taps)
    network = Vgg(
        VGG16_DEPTHS if name == "vgg16" else VGG19_DEPTHS,
        RANDOM_WIDTHS if name == "random" else VGG_WIDTHS,
        padding=padding or ("zero" if name in ("vgg16", "vgg19") else "reflect"),
        pooling=pooling or "max",
    )
    if name == "random":
        _randomise(network)
    else:
        _fill(network, WEIGHTS_OF[name], published_tensors(WEIGHTS_OF[name], weights))
    if name == "vgg19-normalised":
        normalise(network, calibration_pictures())
    return Encoder(name, _channels(name), network)


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


def _fill(network: Vgg, name: str, tensors: Mapping[str, Tensor]) -> None:
    names = torchvision_names(VGG16_DEPTHS if name == "vgg16" else VGG19_DEPTHS)
    try:
        network.convolutions.load_state_dict(
            {
                f"{ours}.{kind}": tensors[f"{theirs}.{kind}"]
                for ours, theirs in names.items()
                for kind in ("weight", "bias")
            }
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"not the weights of {name}: {error}") from error


@torch.no_grad()
def normalise(network: Vgg, pictures: Tensor) -> None:
    """Rescale every filter so that its mean activation over `pictures` (N, 3, H, W) is 1; dead ones stay.

    ReLU and max pooling commute with positive factors, so the next layer takes them back and the network computes
    what it did before, up to one factor per channel. Source: paper 06's normalised VGG, and section 3.1 of 01.
    """
    before = torch.ones(3, dtype=torch.float64)
    features = (pictures.double() - network.mean.double()) / network.std.double()
    for name, convolution in network.convolutions.items():
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        if name.endswith("_1") and name != "conv1_1":
            features = pooled(features, network.pooling)
        weight = convolution.weight.double() * before.view(1, -1, 1, 1)
        activations = _double_convolution(features, weight, convolution.bias.double(), network.padding).relu_()
        mean = activations.mean((0, 2, 3))
        before = torch.where(mean > 0, coarse(mean), 1.0)
        convolution.weight.copy_(weight / before.view(-1, 1, 1, 1))
        convolution.bias.copy_(convolution.bias.double() / before)
        features = activations / before.view(1, -1, 1, 1)


@torch.no_grad()
def _randomise(network: Vgg) -> None:
    """He-normal filters, each centred and scaled so that half of its values live, with mean activation 1.

    Without the centring, filters after the first layer mostly answer to brightness: their inputs are never negative.
    """
    random = np.random.RandomState(0)  # a stream that numpy promises never to change
    features = (calibration_pictures() - network.mean.double()) / network.std.double()
    for name, convolution in network.convolutions.items():
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        if name.endswith("_1") and name != "conv1_1":
            features = pooled(features, network.pooling)
        shape = tuple(convolution.weight.shape)
        he_std = (2 / np.prod(shape[1:])) ** 0.5
        weight = torch.from_numpy(random.standard_normal(shape) * he_std)
        answers = _double_convolution(features, weight, torch.zeros(shape[0], dtype=torch.float64), network.padding)
        bias = -coarse(answers.mean((0, 2, 3)))
        scale = coarse(1 / (answers + bias.view(1, -1, 1, 1)).relu_().mean((0, 2, 3)))
        convolution.weight.copy_(weight * scale.view(-1, 1, 1, 1))
        convolution.bias.copy_(bias * scale)
        features = ((answers + bias.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)).relu_()


def _double_convolution(features: Tensor, weight: Tensor, bias: Tensor, padding: Padding) -> Tensor:
    mode = "constant" if padding == "zero" else "reflect"
    return conv2d(pad(features, (1, 1, 1, 1), mode=mode), weight, bias)


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


# The content tap of an encoder that has only relu1_1 ... relu5_1: the nearest behind the wanted one, and where there
# is none that keeps the layout, relu4_1. A style tap keeps its block instead: same stride, same channels.
DEEPEST_CONTENT_BLOCK = 4


def stand_in(name: EncoderName, tap: str, role: Role) -> str:
    """The tap that encoder `name` gives where a paper says `tap` (`relu1_2`, `conv4_2`), for its `role`.

    Raises ValueError for a tap that no VGG has or that this encoder can neither give nor replace.
    """
    wanted = tap.replace("conv", "relu")  # taps are taken after the ReLU
    if wanted in _channels(name):
        return wanted
    if wanted not in vgg_channels(VGG19_DEPTHS, VGG_WIDTHS) or name not in FIXED_PADDING_AND_POOLING:
        raise ValueError(f"encoder {name} has no tap {tap!r} and nothing that stands in for it")
    block = tap_block(wanted)
    if role == "content" and block < DEEPEST_CONTENT_BLOCK:
        block += 1
    return f"relu{block}_1"


def encoders_description() -> dict[str, Any]:
    """Every encoder as JSON: taps, what it needs, what stands in for missing taps, what can be chosen."""
    return {name: _description(name) for name in get_args(EncoderName)}


def _description(name: EncoderName) -> dict[str, Any]:
    channels = _channels(name)
    fixed = name in FIXED_PADDING_AND_POOLING
    missing = [tap for tap in vgg_channels(VGG19_DEPTHS, VGG_WIDTHS) if tap not in channels] if fixed else []
    roles: tuple[Role, ...] = get_args(Role)
    return {
        "taps": channels,
        "needs_weights": WEIGHTS_OF.get(name),
        "stand_ins": {role: {tap: stand_in(name, tap, role) for tap in missing} for role in roles},
        "padding": ["reflect"] if fixed else list(get_args(Padding)),
        "pooling": ["max"] if fixed else list(get_args(Pooling)),
    }
