"""The fixed networks whose features measure content and style.

Every encoder takes RGB pictures in [0, 1] and gives features by the names of VGG's layers: `relu4_1` is the ReLU
after the first convolution of block 4, at stride 8. What an encoder does to the picture first (mean, std, BGR) is its
own affair. A ReLU is the last thing before every tap, so features are never negative.

Sources: VGG (Simonyan & Zisserman 2014, arXiv:1409.1556); the small encoder's layout and its linear embeddings Q
(Wang et al. 2020, Collaborative Distillation, arXiv:2003.08436, section 3.2 and equation 4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from stylemodels.vgg import (
    VGG16_DEPTHS,
    VGG19_DEPTHS,
    VGG_WIDTHS,
    Padding,
    Pooling,
    Vgg,
    calibration_pictures,
    convolved,
    named_convolutions,
    normalise,
    randomise,
    tap_block,
    tap_stride,
    torchvision_names,
    vgg_channels,
)
from stylemodels.weights import Weights, published_tensors, shipped_tensors

EncoderName = Literal["vgg19", "vgg16", "vgg19-normalised", "small", "small-narrow", "random"]
Role = Literal["content", "style"]

SMALL_DEPTHS = (2, 2, 4, 4, 1)  # VGG-19's up to relu5_1
SMALL_WIDTHS = (16, 24, 48, 96, 96)
RANDOM_WIDTHS = tuple(width // 8 for width in VGG_WIDTHS)

WEIGHTS_OF = {"vgg19": "vgg19", "vgg16": "vgg16", "vgg19-normalised": "vgg19"}  # the others need none
FIXED_PADDING_AND_POOLING = ("small", "small-narrow")  # reflect and max: they were trained so


class Encoder(nn.Module):
    """Frozen: no parameter ever needs a gradient. Gradients flow through to the picture, also second ones."""

    def __init__(self, name: EncoderName, channels: Mapping[str, int], network: nn.Module) -> None:
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


class SmallNetwork(nn.Module):
    """VGG-19 up to relu5_1 at other widths, with a linear embedding Q of every reluN_1 into VGG's widths.

    Names are those of the published 16x network: `conv0` (RGB in [0, 1] to BGR in 0 ... 255 less Caffe's mean),
    `conv34`, `conv31_aux` (Q). Reflection padding and max pooling throughout.
    """

    def __init__(self, widths: Sequence[int] = SMALL_WIDTHS, embedded_widths: Sequence[int] = VGG_WIDTHS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv0 = nn.Conv2d(3, 3, 1)
        for name, convolution in named_convolutions(SMALL_DEPTHS, widths).items():
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
                assert isinstance(convolution, nn.Conv2d)
                features = convolved(features, convolution.weight, convolution.bias, "reflect").relu_()
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
        randomise(network)
    else:
        _fill(network, WEIGHTS_OF[name], published_tensors(WEIGHTS_OF[name], weights))
    if name == "vgg19-normalised":
        normalise(network, calibration_pictures())
    return Encoder(name, _channels(name), network)


def with_pooling(encoder: Encoder, pooling: Pooling) -> Encoder:
    """The same encoder, but that it pools so; the given one, which others may share, stays as it is.

    Raises ValueError for an encoder that was trained with another pooling.
    """
    if encoder.name in FIXED_PADDING_AND_POOLING and pooling != "max":
        raise ValueError(f"vgg_pool: {pooling} was given, encoder {encoder.name} has max for good")
    network = encoder.network
    if not isinstance(network, Vgg) or network.pooling == pooling:
        return encoder
    network = deepcopy(network)
    network.pooling = pooling
    return Encoder(encoder.name, encoder.channels, network)


def weightless_encoder(name: EncoderName) -> Encoder:
    """An encoder of the right shapes with nothing in them; made under `torch.device("meta")` it takes no memory."""
    if name in FIXED_PADDING_AND_POOLING:
        taps = SmallTaps(SmallNetwork(), torch.empty(len(SMALL_WIDTHS)), embed=name == "small")
        return Encoder(name, _channels(name), taps)
    depths = VGG16_DEPTHS if name == "vgg16" else VGG19_DEPTHS
    widths = RANDOM_WIDTHS if name == "random" else VGG_WIDTHS
    padding: Padding = "zero" if name in ("vgg16", "vgg19") else "reflect"
    return Encoder(name, _channels(name), Vgg(depths, widths, padding=padding, pooling="max"))


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
