"""Small networks in VGG-19's layout, one for each depth, and how they start from a larger one.

Sources: the layout, Wang et al. 2020 (arXiv:2003.08436); pruning by L1 norm, Li et al. 2017 (arXiv:1608.08710).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from stylemodels.blocks import MirroredDecoder, start_he
from stylemodels.encoders import FIXED_PADDING_AND_POOLING, SMALL_DEPTHS, SMALL_WIDTHS, Encoder, SmallTaps
from stylemodels.small_encoder import kept_filters
from stylemodels.vgg import Vgg, convolved, named_convolutions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StageEncoder(nn.Module):
    """VGG-19 up to relu`k`_1, k being the number of `widths`: the channels of its blocks.

    Layers are called as in the published files: `conv0`, a 1 x 1 convolution of constants from RGB in [0, 1] to what
    the first layer wants, then `conv11`, `conv12`, `conv21`, ... Reflection padding and max pooling.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv0 = nn.Conv2d(3, 3, 1)
        self.names: list[str] = []  # of the 3 x 3 convolutions, in order
        for name, convolution in named_convolutions((*SMALL_DEPTHS[: len(widths) - 1], 1), widths).items():
            self.names.append(name.replace("_", ""))
            self.add_module(self.names[-1], convolution)
        self.conv0.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """`images` (N, 3, H, W) in [0, 1] -> relu`k`_1 (N, widths[-1], H // 2^(k-1), W // 2^(k-1))."""
        return self.features(images)[-1]

    def features(self, images: Tensor) -> list[Tensor]:
        """relu1_1 ... relu`k`_1. Raises ValueError for a picture with a side below 2^k px: nothing to reflect."""
        least = 1 << len(self.widths)
        if min(images.shape[-2:]) < least:
            height, width = images.shape[-2:]
            raise ValueError(f"a picture of {height} x {width} px is too small: sides must be at least {least} px")
        features: Tensor = self.conv0(images)
        found: list[Tensor] = []
        for name in self.names:
            if name.endswith("1") and found:
                features = max_pool2d(features, 2)
            layer = self.layer(name)
            features = convolved(features, layer.weight, layer.bias, "reflect").relu_()
            if name.endswith("1"):
                found.append(features)
        return found

    def layer(self, name: str) -> nn.Conv2d:
        return convolution_of(self, name)


def convolution_of(network: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name."""
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


def own_widths(encoder: Encoder) -> tuple[int, ...]:
    """Channels of an encoder's own convolutions at relu1_1, relu2_1, ..., before any embedding into VGG's widths."""
    if encoder.name in FIXED_PADDING_AND_POOLING:
        return SMALL_WIDTHS
    return tuple(width for tap, width in encoder.channels.items() if tap.endswith("_1"))


def layers_of(encoder: Encoder) -> dict[str, Tensor] | None:
    """An encoder's tensors under the names of a `StageEncoder`; None without its weights.

    Those of the small encoders are scaled to give what small-narrow gives, and come with their Q, `convK1_aux`.
    """
    network = encoder.network
    if isinstance(network, SmallTaps):
        return scaled_taps(network)
    if not isinstance(network, Vgg):
        return None
    tensors = {"conv0.weight": torch.diag(1 / network.std.flatten())[..., None, None]}
    tensors["conv0.bias"] = -(network.mean / network.std).flatten()
    for name, value in network.convolutions.state_dict().items():
        tensors[name.replace("_", "")] = value
    return tensors


def scaled_taps(network: SmallTaps) -> dict[str, Tensor]:
    """The small network's tensors with reluK_1 divided by its root mean square, and what follows it multiplied.

    A ReLU commutes with positive factors, so nothing behind the taps changes. What conv0 gives, 0 ... 255 less a mean,
    is brought to the order of 1 likewise.
    """
    tensors = {name: tensor.clone() for name, tensor in network.small.state_dict().items()}
    for name, factor in {"conv0.weight": 1 / 64, "conv0.bias": 1 / 64, "conv11.weight": 64}.items():
        tensors[name] *= factor
    for block, rms in enumerate(network.tap_rms, start=1):
        after = f"conv{block}2" if SMALL_DEPTHS[block - 1] > 1 else f"conv{block + 1}1"
        for name, factor in {f"conv{block}1": 1 / rms, f"conv{block}1_aux": rms, after: rms}.items():
            if f"{name}.weight" in tensors:
                tensors[f"{name}.weight"] *= factor
        tensors[f"conv{block}1.bias"] /= rms
    return tensors


@torch.no_grad()
def start_at_random(network: StageEncoder) -> None:
    """He et al.'s weights, zero biases, and VGG's mean and std as conv0."""
    start_he(network)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    network.conv0.weight.copy_(torch.diag(1 / std)[..., None, None])
    network.conv0.bias.copy_(-mean / std)  # type: ignore[union-attr]


@torch.no_grad()
def start_as(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy every tensor of `network` from `tensors`. Raises ValueError that names the first that does not fit."""
    for name, own in network.state_dict().items():
        if name not in tensors or tensors[name].shape != own.shape:
            given = f"of shape {tuple(tensors[name].shape)}" if name in tensors else "missing"
            raise ValueError(f"tensor {name!r} is {given}, it must have shape {tuple(own.shape)}")
        own.copy_(tensors[name])


@torch.no_grad()
def start_widened(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy every tensor of `network` from a narrower one in `tensors`; further channels stay as they are."""
    for name, own in network.state_dict().items():
        own[tuple(slice(side) for side in tensors[name].shape)] = tensors[name]


@torch.no_grad()
def start_where_it_fits(network: nn.Module, other: nn.Module) -> None:
    """Copy what `other` has under the same name in the same shape."""
    tensors = other.state_dict()
    for name, own in network.state_dict().items():
        if name in tensors and tensors[name].shape == own.shape:
            own.copy_(tensors[name])


@torch.no_grad()
def start_encoder_pruned(student: StageEncoder, teacher: Mapping[str, Tensor]) -> None:
    """The teacher's conv0, and of every layer the strongest filters."""
    start_as(student.conv0, {name: teacher[f"conv0.{name}"] for name in ("weight", "bias")})
    start_pruned(student, student.names, teacher, torch.arange(3))


@torch.no_grad()
def start_decoder_pruned(decoder: nn.Module, collaborator: nn.Module) -> None:
    """SD as BD's strongest filters, and of its input the channels with the largest L1 norm over the filters.

    Nothing happens where BD is narrower than SD anywhere.
    """
    assert isinstance(decoder, MirroredDecoder)
    names = [name for name in decoder.steps if name != "up"]
    sizes = [[convolution_of(network, name).weight.shape[:2] for name in names] for network in (decoder, collaborator)]
    if all(own[0] <= wide[0] and own[1] <= wide[1] for own, wide in zip(*sizes, strict=True)):
        tensors, first = collaborator.state_dict(), names[0]
        inputs = kept_filters(tensors[f"{first}.weight"].transpose(0, 1), sizes[0][0][1])
        start_pruned(decoder, names, tensors, inputs)


def start_pruned(network: nn.Module, names: Sequence[str], teacher: Mapping[str, Tensor], inputs: Tensor) -> None:
    """Give the layers `names`, in their order, the teacher's strongest filters by L1 norm.

    inputs: which channels the first layer sees; each following one sees the filters that the one before has kept.
    """
    for name in names:
        layer, weight = convolution_of(network, name), teacher[f"{name}.weight"]
        kept = kept_filters(weight, layer.out_channels)
        start_as(layer, {"weight": weight[kept][:, inputs], "bias": teacher[f"{name}.bias"][kept]})
        inputs = kept
