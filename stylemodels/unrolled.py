"""The network of the flexible convolutional solver: the gradient descent of a style transfer, unrolled for T steps.

    X_0 = X_c,   X_{t+1} = X_t - mu g_t(X_t, X_s)
    g(X, X_s) = sum_l lambda_l b_l( f_l(X) G_l^T Gram_l H_l ),   Gram_l = S_l^T S_l / n'_l        equation 10

f stands for the encoder and b for its back-propagation; l are the taps, finest first. The style is in Gram alone.
Source: Puy & Perez 2019 (A Flexible Convolutional Solver for Fast Style Transfers); the layers are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from stylemodels.blocks import InstanceNorm, reflect_conv
from stylemodels.style_filters import Weighted

BMode = Literal["adjoint", "accumulate", "separate"]
Filters = Sequence[Sequence[Weighted]]  # tap by tap, finest first


class F(nn.Module):
    """f: an image to features at strides 1, 2, 4, ..., one trunk that is tapped after every block."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(reflect_conv(inputs, outputs, 3) for inputs, outputs in pairwise((3, *widths)))
        self.norms = nn.ModuleList(InstanceNorm(width) for width in widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> tap by tap (N, d, h, w), not negative."""
        levels: list[Tensor] = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            levels.append(relu(norm(conv(max_pool2d(levels[-1], 2) if levels else images))))
        return levels


class AdjointB(nn.Module):
    """All b_l as back-propagation is: linear, without biases, through f's own gates, lower stages shared.

    y = z_L;  y = up2(K_l * (y . 1[f_l > 0])) + z_{l-1} for l = L ... 2;  g = K_1 * (y . 1[f_1 > 0])
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        sides = pairwise((3, *widths))
        self.k = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1, padding_mode="reflect", bias=False) for outer, inner in sides
        )
        nn.init.zeros_(self.k[0].weight)  # type: ignore[arg-type]

    def forward(self, z: Sequence[Tensor], levels: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
        """Filtered features, f's own, and lambda, tap by tap -> (N, 3, H, W)."""
        y = scales[-1] * z[-1]
        for level in range(len(z) - 1, 0, -1):
            y = doubled(self.k[level](y * (levels[level] > 0))) + scales[level - 1] * z[level - 1]
        gradient: Tensor = self.k[0](y * (levels[0] > 0))
        return gradient


class Decoder(nn.Module):
    """Features to an image: a convolution and a ReLU at every level, nearest x2 in between; silent at first."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: finest first."""
        super().__init__()
        sides = pairwise((widths[0], *widths))  # the finest keeps its width
        self.convs = nn.ModuleList(reflect_conv(inner, outer, 3) for outer, inner in sides)
        self.last = reflect_conv(widths[0], 3, 3)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, y: Tensor, added: Sequence[Tensor] = ()) -> Tensor:
        """The coarsest features, and what is added at every finer level (or nothing) -> (N, 3, H, W)."""
        for level in range(len(self.convs) - 1, 0, -1):
            y = doubled(relu(self.convs[level](y)))
            y = y + added[level - 1] if added else y
        image: Tensor = self.last(relu(self.convs[0](y)))
        return image


class AccumulateB(nn.Module):
    """One decoder, every tap added where it belongs."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.decoder = Decoder(widths)

    def forward(self, z: Sequence[Tensor], levels: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
        """Filtered features and lambda, tap by tap -> (N, 3, H, W); f's own features are not looked at."""
        *added, y = (scale * part for scale, part in zip(scales, z, strict=True))
        gradient: Tensor = self.decoder(y, added)
        return gradient


class SeparateB(nn.Module):
    """A decoder for each tap: equation 10 as it is printed."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(Decoder(widths[: level + 1]) for level in range(len(widths)))

    def forward(self, z: Sequence[Tensor], levels: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
        """Filtered features and lambda, tap by tap -> (N, 3, H, W); f's own features are not looked at."""
        return torch.stack([scale * b(y) for scale, b, y in zip(scales, self.decoders, z, strict=True)]).sum(0)


B_MODES: Mapping[BMode, type[AdjointB | AccumulateB | SeparateB]] = {
    "adjoint": AdjointB,
    "accumulate": AccumulateB,
    "separate": SeparateB,
}


class GradientStep(nn.Module):
    """g_t of equation 10."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], b_mode: BMode) -> None:
        super().__init__()
        self.f = F(widths)
        self.g, self.h = (
            nn.ParameterList(torch.randn(c, d) * (d * c**0.5) ** -0.5 for c, d in zip(channels, widths, strict=True))
            for _ in range(2)
        )
        self.b = B_MODES[b_mode](widths)

    def forward(self, images: Tensor, filters: Filters, scales: Sequence[float]) -> Tensor:
        """(N, 3, H, W) -> the same. scales: lambda_l at run time."""
        levels = self.f(images)
        z = [self.filtered(n, levels[n], filters[n]) for n in range(len(levels))]
        gradient: Tensor = self.b(z, levels, scales)
        return gradient

    def filtered(self, tap: int, features: Tensor, filters: Sequence[Weighted]) -> Tensor:
        """z: features (N, d, h, w), times G^T Gram H with positions as rows, each filter where its weight says."""
        parts = (weight * through(features, self.matrix(tap, gram)) for gram, weight in filters)
        return sum(parts, start=features.new_zeros(()))

    def matrix(self, tap: int, gram: Tensor) -> Tensor:
        """W = G^T Gram H: (N, c, c) -> (N, d, d), in float32 also under autocast."""
        with torch.autocast(gram.device.type, enabled=False):
            matrix: Tensor = self.g[tap].T @ gram @ self.h[tap]
        return matrix


class Solver(nn.Module):
    """The unrolled descent: g_0 ... g_{T-1}."""

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int],
        *,
        steps: int,
        share: bool = False,
        b_mode: BMode = "adjoint",
    ) -> None:
        """channels: c of the encoder's style taps. widths: d of f at each. share: one g for all steps."""
        super().__init__()
        own = 1 if share else steps
        self.g = nn.ModuleList(GradientStep(channels, widths, b_mode) for _ in range(own))
        self.order = [n % own for n in range(steps)]

    def forward(
        self,
        content: Tensor,
        filters: Filters,
        scales: Sequence[Sequence[float]] | None = None,
        mu: float = 1.0,
        settled: Callable[[Tensor, Tensor], Tensor] = lambda moved, before: moved,
    ) -> Iterator[Tensor]:
        """X_1, X_2, ... X_T, each (N, 3, H, W), not clamped.

        scales: lambda of each step and tap; as many steps are taken. settled: what terms that were added to the loss
        make of X_t - mu g_t, and of X_t.
        """
        image = content
        for step, of_taps in enumerate(scales or [[1.0] * len(filters)] * len(self.order)):
            image = settled(image - mu * self.g[self.order[step]](image, filters, of_taps), image)
            yield image


def through(features: Tensor, matrix: Tensor) -> Tensor:
    """f W with positions as rows: (N, d, h, w) and (N, d, e) -> (N, e, h, w)."""
    return torch.einsum("bkyx,bke->beyx", features, matrix.to(features.dtype))


def doubled(features: Tensor) -> Tensor:
    return interpolate(features, scale_factor=2)
