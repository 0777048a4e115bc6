"""Building blocks of networks that several methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.functional import interpolate, relu

from stylemodels.features import at_least_float32

VGG19_HEAD_DEPTHS = (2, 2, 4, 4, 1)  # convolutions of each block up to relu5_1


def reflect_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with bias that keeps the size (or halves it, rounding up) by reflecting the border."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect")


class InstanceNorm(nn.GroupNorm):
    """Instance norm without running statistics, with gain and bias unless told otherwise; in float32 under autocast.

    A group norm with a group for each channel, which is the same and has the faster kernels: on a CPU 2 to 13 times as
    fast as `nn.InstanceNorm2d` without gradients, 1.5 to 4 times with them (measured).
    """

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(channels, channels, affine=affine)

    def forward(self, features: Tensor) -> Tensor:
        features = at_least_float32(features)
        # The backward pass of the channels-last kernel takes four times as long.
        return super().forward(features.contiguous() if torch.is_grad_enabled() else features)


Layer = Callable[[int], nn.Module]  # a norm or a gate of so many channels


class ResidualBlock(nn.Module):
    """y = x + gate(norm(conv(relu(norm(conv(x)))))), without a ReLU after the sum."""

    def __init__(self, channels: int, norm: Layer = InstanceNorm, gate: Layer = nn.Identity) -> None:
        super().__init__()
        self.conv1 = reflect_conv(channels, channels, 3)
        self.in1 = norm(channels)
        self.conv2 = reflect_conv(channels, channels, 3)
        self.in2 = norm(channels)
        self.gate = gate(channels)

    def forward(self, features: Tensor) -> Tensor:
        inner = relu(self.in1(self.conv1(features)))
        result: Tensor = features + self.gate(self.in2(self.conv2(inner)))
        return result


class FastStyleNetwork(nn.Module):
    """The feed-forward network of fast neural style, with nearest up-sampling and a sigmoid at the end.

    width: channels of the first layer. At 32 with five residual blocks it has 1,679,235 parameters, the published
    1.68M, of which 3,200 are the gains and biases of its instance norms.

    norm: of all layers but the last; they are called `in1` ... whichever it is. gate: at the end of every residual
    branch, with gate_all also behind the five norms outside of them.

    Images (N, 3, H, W) in [0, 1] give images (N, 3, 4*ceil(H/4), 4*ceil(W/4)) strictly inside (0, 1); sides from 5 px.
    Source: Johnson et al. 2016 (arXiv:1603.08155), as Zhang et al. 2019 (arXiv:1812.05233) use it.
    """

    def __init__(
        self,
        width: int = 32,
        res_blocks: int = 5,
        *,
        norm: Layer = InstanceNorm,
        gate: Layer = nn.Identity,
        gate_all: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = reflect_conv(3, width, 9)
        self.in1 = norm(width)
        self.conv2 = reflect_conv(width, 2 * width, 3, stride=2)
        self.in2 = norm(2 * width)
        self.conv3 = reflect_conv(2 * width, 4 * width, 3, stride=2)
        self.in3 = norm(4 * width)
        self.residual = nn.Sequential(*(ResidualBlock(4 * width, norm, gate) for _ in range(res_blocks)))
        self.deconv1 = reflect_conv(4 * width, 2 * width, 3)
        self.in4 = norm(2 * width)
        self.deconv2 = reflect_conv(2 * width, width, 3)
        self.in5 = norm(width)
        self.deconv3 = reflect_conv(width, 3, 9)
        outside = gate if gate_all else nn.Identity
        self.gates = nn.ModuleList(outside(factor * width) for factor in (1, 2, 4, 2, 1))

    def forward(self, images: Tensor) -> Tensor:
        gate1, gate2, gate3, gate4, gate5 = self.gates
        features = relu(gate1(self.in1(self.conv1(images))))
        features = relu(gate2(self.in2(self.conv2(features))))
        features = relu(gate3(self.in3(self.conv3(features))))
        features = self.residual(features)
        features = relu(gate4(self.in4(self.deconv1(interpolate(features, scale_factor=2)))))
        features = relu(gate5(self.in5(self.deconv2(interpolate(features, scale_factor=2)))))
        result: Tensor = self.deconv3(features).to(images.dtype).sigmoid()
        return result


class MirroredDecoder(nn.Module):
    """An encoder that ends at reluN_1 in reverse: every convolution mirrored, nearest x2 for every pooling.

    Its layers are called as those that they undo: `conv41` takes relu4_1's channels back to relu3_1's.
    Source: Li et al. 2017 (arXiv:1705.08086), section 3.1; Huang & Belongie 2017 (arXiv:1703.06868), section 6.1.
    """

    def __init__(self, widths: Sequence[int], *, final_relu: bool = False) -> None:
        """widths: channels of reluN_1, ..., relu1_1; as many as there are blocks to undo, 1 to 5.

        final_relu: as some published decoders have it. In training such an output can die: all zero, no gradient.
        """
        super().__init__()
        self.widths, self.final_relu = tuple(widths), final_relu
        self.steps: list[str] = []  # names of convolutions, in order; "up" in between
        for block in range(len(widths), 0, -1):
            width = widths[-block]
            after = widths[1 - block] if block > 1 else 3
            depth = 1 if block == len(widths) else VGG19_HEAD_DEPTHS[block - 1]
            for index in range(depth, 0, -1):
                self.add_module(f"conv{block}{index}", reflect_conv(width, after if index == 1 else width, 3))
                self.steps.append(f"conv{block}{index}")
            if block > 1:
                self.steps.append("up")
        start_decoder(self)

    def forward(self, features: Tensor) -> Tensor:
        """(N, widths[0], h, w) -> (N, 3, H, W), H and W being h and w times 2^(blocks - 1). Not clamped."""
        for step in self.steps[:-1]:
            features = (
                interpolate(features, scale_factor=2) if step == "up" else relu(self.get_submodule(step)(features))
            )
        image: Tensor = self.get_submodule(self.steps[-1])(features)
        return relu(image) if self.final_relu else image


def start_he(network: nn.Module) -> None:
    """He-uniform weights and zero biases for every convolution of `network`.

    Source: He et al. 2015 (arXiv:1502.01852), equation 10.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                init.zeros_(layer.bias)


@torch.no_grad()
def start_decoder(decoder: nn.Module) -> None:
    """Start a chain of convolutions, whose last one paints pictures in [0, 1], where it can learn.

    Layers that keep the width start near the identity, which a ReLU leaves alone, the last one very quietly around
    mid-grey: beyond black and white an encoder may see nothing at all. In a chain of up to 13 layers of PyTorch's
    own start the signal fades: such a decoder gives nearly the same for all pictures, and learns next to nothing
    for long.
    """
    convolutions = [layer for layer in decoder.children() if isinstance(layer, nn.Conv2d)]
    start_he(decoder)
    for layer in convolutions:
        if layer.in_channels == layer.out_channels:
            layer.weight.mul_(0.1).add_(init.dirac_(torch.empty_like(layer.weight)))
    last = convolutions[-1]
    assert last.bias is not None
    last.bias.fill_(0.5)
    last.weight.mul_(0.01)


def norm_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Gains and biases of all instance norms of a network, by their names in it."""
    return {
        f"{name}.{key}": parameter
        for name, module in network.named_modules()
        if isinstance(module, InstanceNorm)
        for key, parameter in module.named_parameters()
    }
