"""Spatial propagation: a linear recurrence over a picture in four directions, whose gates another picture decides.

    h[y, t] = (1 - g1 - g2 - g3) x[y, t] + g1 h[y-1, t-1] + g2 h[y, t-1] + g3 h[y+1, t-1]      left to right

Gates are read at (y, t); a neighbour outside the picture has gate and value 0. Where the guide says that two
neighbours belong together, colour flows from one to the other.

Sources: Liu et al. 2017 (arXiv:1710.01020), section 3; Li et al. 2019 (arXiv:1808.04537) for the network.

Axes: T steps of the scan, M lines that are scanned independently (pictures and channels), L positions across.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, elu, interpolate, max_pool2d, relu

from stylemodels.features import at_least_float32
from stylemodels.whitening import AffineMap, Moments, matrix_power

Guide = Literal["whitened", "plain"]

CHANNELS = 32
DRAWN_CHANNELS = 4
GUIDE_WIDTHS = (32, 64, 128, 256)
DIRECTIONS, GATES = 4, 3
MULTIPLE = 8  # the guide is halved three times


class Scan(torch.autograd.Function):
    """The recurrence along the first axis. Its own backward: autograd's would keep every step and its shifts."""

    @staticmethod
    def forward(ctx: Any, x_TML: Tensor, gates_3TML: Tensor) -> Tensor:
        own_TML = x_TML * (1 - gates_3TML.sum(0))
        steps, lines, length = x_TML.shape
        bordered = x_TML.new_zeros(steps, lines, length + 2)
        hidden = bordered[..., 1:-1]
        hidden[0] = own_TML[0]
        for before, now, own, (g1, g2, g3) in zip(
            bordered[:-1], hidden[1:], own_TML[1:], gates_3TML[:, 1:].unbind(1), strict=True
        ):
            torch.addcmul(own, g1, before[:, :-2], out=now)
            now.addcmul_(g2, before[:, 1:-1]).addcmul_(g3, before[:, 2:])
        ctx.save_for_backward(x_TML, gates_3TML, bordered)
        return hidden.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_TML, gates_3TML, bordered = ctx.saved_tensors
        reached_TML = gradients[0].clone(memory_format=torch.contiguous_format)  # by the loss, also through later steps
        for step in range(len(x_TML) - 1, 0, -1):
            now, before = reached_TML[step], reached_TML[step - 1]
            g1, g2, g3 = gates_3TML[:, step]
            before[:, :-1].addcmul_(g1[:, 1:], now[:, 1:])
            before.addcmul_(g2, now)
            before[:, 1:].addcmul_(g3[:, :-1], now[:, :-1])
        of_gates = torch.stack([-x_TML] * GATES)
        for k in range(GATES):
            of_gates[k, 1:] += bordered[:-1, :, k : k + x_TML.shape[2]]
        return reached_TML * (1 - gates_3TML.sum(0)), of_gates.mul_(reached_TML)


def scan(x_TML: Tensor, gates_3TML: Tensor) -> Tensor:
    """h of the recurrence, TML, along the first axis; float32 at least, for the gates may amplify."""
    inside = torch.ones(GATES, x_TML.shape[0], 1, x_TML.shape[2], dtype=torch.bool, device=x_TML.device)
    inside[:, 0] = False
    inside[0, ..., 0] = False
    inside[2, ..., -1] = False
    apply: Any = Scan.apply  # torch says no types
    result: Tensor = apply(at_least_float32(x_TML), at_least_float32(gates_3TML) * inside)
    return result


def normalised(gates: Tensor, dim: int) -> Tensor:
    """Gates whose absolute values sum to 1 at most over `dim`: larger sums are divided by themselves."""
    return gates / gates.abs().sum(dim, keepdim=True).clamp_min(1)


def propagate(x: Tensor, gates: Tensor) -> Tensor:
    """The recurrence in four directions: from the left, from the right, from the top, from the bottom.

    x: (N, C, H, W). gates: (N, 4, 3, C, H, W), normalised; of the three the first is that of the neighbour above
    (to the left, in the vertical directions). Returns (4, N, C, H, W), float32 (float64 stays float64).
    """
    horizontal = both_ways(x.permute(3, 0, 1, 2), gates[:, :2].permute(1, 2, 5, 0, 3, 4))
    vertical = both_ways(x.permute(2, 0, 1, 3), gates[:, 2:].permute(1, 2, 4, 0, 3, 5))
    return torch.cat([horizontal.permute(0, 2, 3, 4, 1), vertical.permute(0, 2, 3, 1, 4)])


def both_ways(x: Tensor, gates: Tensor) -> Tensor:
    """Forth and back along the first axis, as one batch: (T, N, C, L) and (2, 3, T, N, C, L) -> (2, T, N, C, L)."""
    x_TML = torch.stack([x, x.flip(0)], 1).flatten(1, 3)
    gates_3TML = torch.stack([gates[0], gates[1].flip(1)], 2).flatten(2, 4)
    forth, back = scan(x_TML, gates_3TML).view(len(x), 2, *x.shape[1:]).unbind(1)
    return torch.stack([forth, back.flip(0)])


class GuidanceNetwork(nn.Module):
    """Reads the gates from the guide: a small U-net with sums for its bridges, and a convolution to all gates."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = GUIDE_WIDTHS
        self.e1, self.e2 = zero_conv(3, one), zero_conv(one, two)
        self.e3, self.e4 = zero_conv(two, three), zero_conv(three, four)
        self.narrow = nn.Conv2d(four, three, 1)
        self.d3, self.d2, self.d1 = zero_conv(three, three), zero_conv(three, two), zero_conv(two, one)
        self.gates = zero_conv(one, DIRECTIONS * GATES * CHANNELS)

    def forward(self, guide: Tensor) -> Tensor:
        """(N, 3, H, W), sides multiples of 8 -> features (N, 32, H, W) from which `gates_of` reads."""
        e1 = self.e1(guide)
        e2 = self.e2(halved(e1))
        e3 = self.e3(halved(e2))
        features: Tensor = self.narrow(self.e4(halved(e3)))
        features = elu(self.d3(doubled(features))) + e3
        features = elu(self.d2(doubled(features))) + e2
        features = elu(self.d1(doubled(features))) + e1
        return features

    def gates_of(self, features: Tensor, channels: Tensor) -> Tensor:
        """Normalised gates (N, 4, 3, len(channels), H, W) of some channels, float32 at least."""
        assert self.gates.bias is not None
        weight = self.gates.weight.view(DIRECTIONS, GATES, CHANNELS, -1, 3, 3)[:, :, channels].flatten(0, 2)
        bias = self.gates.bias.view(DIRECTIONS, GATES, CHANNELS)[:, :, channels].flatten()
        raw = at_least_float32(conv2d(features, weight, bias, padding=1))
        return normalised(raw.view(len(raw), DIRECTIONS, GATES, len(channels), *raw.shape[2:]), 2)


class PropagationNetwork(nn.Module):
    """The SPN: takes the auto-encoder's distortions out of a picture, along the edges of the guide; 773,891 parameters.

    Source: Li et al. 2019 (arXiv:1808.04537), section 3.4, and its published code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask_conv = zero_conv(3, CHANNELS)
        self.guidance = GuidanceNetwork()
        self.post = zero_conv(CHANNELS, 3)

    def forward(self, images: Tensor, guide: Tensor) -> Tensor:
        """images, guide: (N, 3, H, W) of one size. Returns (N, 3, H, W), not clamped.

        Raises ValueError unless the sides are multiples of 8.
        """
        height, width = images.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(f"the filter takes sides that are multiples of {MULTIPLE} px, not {height} x {width}")
        features, x = self.guidance(guide), self.mask_conv(images)
        # Channels do not meet before `post`. Drawing takes a few at a time: all gates at once are 1.5 KB per pixel,
        # several times over, which training must keep anyway.
        at_once = CHANNELS if torch.is_grad_enabled() else DRAWN_CHANNELS
        propagated = [
            propagate(x[:, some], self.guidance.gates_of(features, some)).amax(0)
            for some in torch.split(torch.arange(CHANNELS, device=x.device), at_once)
        ]
        result: Tensor = self.post(torch.cat(propagated, 1))
        return result


def guide_of(content: Tensor, kind: Guide) -> Tensor:
    """What the gates are read from: `content` (N, 3, H, W) itself, or W (content - mean) with W = (cov + 1)^(-1/2).

    The identity beside a covariance of a few hundredths leaves little whitening: W is nearly the identity too.
    """
    if kind == "plain":
        return content
    moments = Moments.of(content)
    whitening = matrix_power(moments.covariance + torch.eye(3, dtype=torch.float64, device=content.device), -0.5)
    return AffineMap(whitening, -(whitening @ moments.mean[..., None])[..., 0])(content)


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def halved(features: Tensor) -> Tensor:
    return max_pool2d(relu(features), 3, stride=2, padding=1)


def doubled(features: Tensor) -> Tensor:
    return interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
