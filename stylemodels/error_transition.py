"""The networks of ETNet: what is wrong with a stylisation in, what to add to it out.

phi_i are an encoder's features at relu{i}_1 (c1 ... c4 channels), G^i their Gram matrices. Every activation is a leaky
ReLU of slope 0.1; nothing is normalised, and nothing but the errors themselves has to be small for the result to be.
Source: Song et al. 2019 (arXiv:1910.12056); layer sizes are those of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.functional import leaky_relu

from stylemodels.attention import Form, attention
from stylemodels.blocks import reflect_conv
from stylemodels.error_encoder import DEEPEST, TAPS, Errors
from stylemodels.features import at_least_float32

SLOPE = 0.1


def truncated_normal_(values: Tensor, std: float, random: torch.Generator | None = None) -> Tensor:
    """Fill with normal numbers of mean 0, of which none is further away than 2 std.

    By the inverse distribution function; PyTorch's own draws until all fit, which shapes without values cannot tell.
    """
    edge = math.erf(math.sqrt(2))
    drawn = values.uniform_(-edge, edge, generator=random).erfinv_().mul_(math.sqrt(2) * std)
    return drawn.clamp_(-2 * std, 2 * std)


def active(features: Tensor) -> Tensor:
    return leaky_relu(features, SLOPE)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution at a quarter of the outputs' width, beside an identity or a 1x1; no biases."""

    def __init__(self, inputs: int, outputs: int, *, last: bool = False) -> None:
        """last: an activation after the sum."""
        super().__init__()
        inner = outputs // 4
        self.last = last
        self.reduce = nn.Conv2d(inputs, inner, 1, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, padding_mode="reflect", bias=False)
        self.expand = nn.Conv2d(inner, outputs, 1, bias=False)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        inner = active(self.conv(active(self.reduce(features))))
        total: Tensor = self.expand(inner) + self.shortcut(features)
        return active(total) if self.last else total


class Residual(nn.Module):
    """x + conv(active(conv(x))), without an activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = reflect_conv(channels, channels, 3), reflect_conv(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.conv2(active(self.conv1(features)))
        return result


class Fusion(nn.Module):
    """Content error and style error of one tap in one map, by a product: 0 as soon as either is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, channels)  # before the product and after it
        self.weight = nn.Parameter(torch.eye(channels))

    def forward(self, errors: Tensor, style_error: Tensor) -> Tensor:
        """errors: (N, C, h, w), style_error: (N, C, C). Each position's row x becomes x W style_error; (N, C, h, w)."""
        spread = self.bottleneck(errors)
        matrix = (self.weight @ style_error.to(self.weight)).transpose(1, 2)
        return active(self.bottleneck((matrix @ spread.flatten(2)).view_as(spread)))


class CrossAttention(nn.Module):
    """target + what every position of `source` finds in `target`; in float32 also under autocast."""

    def __init__(self, channels: int, form: Form, chunk: int) -> None:
        super().__init__()
        self.form, self.chunk = form, chunk
        self.f = nn.Conv2d(channels, channels // 2, 1)
        self.g = nn.Conv2d(channels, channels // 2, 1)  # its bias adds one number to a row of logits: without effect
        self.h = nn.Conv2d(channels, channels // 2, 1)
        self.out = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Both (N, C, h, w), as the result."""
        with torch.autocast(source.device.type, enabled=False):
            source, target = at_least_float32(source), at_least_float32(target)
            found = attention(self.f(source), self.g(target), self.h(target), form=self.form, chunk=self.chunk)
            result: Tensor = target + self.out(found)
        return result


class Diffusion(nn.Module):
    """The non-local block: errors and features look at each other over the whole picture."""

    def __init__(self, channels: int, form: Form, chunk: int) -> None:
        super().__init__()
        self.of_errors, self.of_features = Bottleneck(channels, channels), Bottleneck(channels, channels)
        self.to_features = CrossAttention(channels, form, chunk)
        self.to_errors = CrossAttention(channels, form, chunk)
        self.merge = Bottleneck(channels, channels, last=True)

    def forward(self, errors: Tensor, features: Tensor) -> Tensor:
        """Both (N, C, h, w), as the result."""
        errors, features = self.of_errors(errors), self.of_features(features)
        both = self.to_features(errors, features) + self.to_errors(features, errors)
        result: Tensor = self.merge(active(both))
        return result


class ScaleStep(nn.Module):
    """Fused errors of one scale, brought to the next finer one: twice as large, as many channels."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fuse = Fusion(channels)
        self.decode = nn.Sequential(
            Bottleneck(channels, inner, last=True),
            Residual(inner),
            nn.Upsample(scale_factor=2),
            Residual(inner),
            nn.LeakyReLU(SLOPE),
            Bottleneck(inner, channels, last=True),
        )

    def forward(self, errors: Tensor, style_error: Tensor) -> Tensor:
        result: Tensor = self.decode(self.fuse(errors, style_error))
        return result


class ErrorTransition(nn.Module):
    """The network of one level. The error path and the image path share the decoders 4, 3 and 2."""

    def __init__(
        self, channels: Mapping[str, int], coarser_scales: int, *, start_std: float, form: Form, chunk: int
    ) -> None:
        """channels: of the encoder's taps. coarser_scales: how many there are below this level.

        start_std: of the weights to start with; where it is small, the residual is next to nothing.
        """
        super().__init__()
        c1, c2, c3, c4 = (channels[tap] for tap in TAPS)
        self.steps = nn.ModuleList(ScaleStep(c4, c2) for _ in range(coarser_scales))
        self.fuse4, self.fuse3, self.fuse2, self.fuse1 = Fusion(c4), Fusion(c3), Fusion(c2), Fusion(c1)
        self.diffuse = Diffusion(c4, form, chunk)
        self.decode4 = nn.Sequential(
            Bottleneck(c4, c3, last=True), Residual(c3), nn.Upsample(scale_factor=2), Residual(c3)
        )
        self.decode3 = nn.Sequential(_narrowed(c3, c2), Residual(c2), nn.Upsample(scale_factor=2), Residual(c2))
        self.decode2 = nn.Sequential(
            _narrowed(c2, c2),
            Residual(c2),
            nn.Upsample(scale_factor=2),
            Residual(c2),
            nn.LeakyReLU(SLOPE),
            _narrowed(c2, c1),
        )
        self.decode1 = nn.Sequential(
            Residual(c1),
            nn.LeakyReLU(SLOPE),
            Residual(c1),
            nn.LeakyReLU(SLOPE),
            _narrowed(c1, c1),
            reflect_conv(c1, 3, 3),
        )
        self._start(start_std)

    @torch.no_grad()
    def _start(self, std: float) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                truncated_normal_(layer.weight, std)
                if layer.bias is not None:
                    init.zeros_(layer.bias)
            elif isinstance(layer, Fusion):
                init.uniform_(layer.weight, 0, std)

    def forward(self, features: Mapping[str, Tensor], errors: Sequence[Errors]) -> Tensor:
        """The residual (N, 3, H, W), to be added to the stylisation.

        features: phi_1 ... phi_4 of the stylisation at this level, by tap. errors: of every scale, the coarsest first,
        this level's own last; each scale is twice as large as the one before it.
        """
        f1, f2, f3, f4 = (features[tap] for tap in TAPS)
        ds1, ds2, ds3, ds4 = (errors[-1].style[tap] for tap in TAPS)
        wrong = errors[0].content
        for step, scale, larger in zip(self.steps, errors[:-1], errors[1:], strict=True):
            wrong = step(wrong, scale.style[DEEPEST]) + larger.content
        e4 = self.fuse4(wrong, ds4)
        e3 = self.fuse3(self.decode4(e4), ds3)
        e2 = self.fuse2(self.decode3(e3), ds2)
        e1 = self.fuse1(self.decode2(e2), ds1)
        changed = self.diffuse(e4, f4)
        changed = active(self.decode4(changed) + f3 + e3)
        changed = active(self.decode3(changed) + f2 + e2)
        changed = active(self.decode2(changed) + f1 + e1)
        residual: Tensor = self.decode1(changed)
        return residual


def _narrowed(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(reflect_conv(inputs, outputs, 3), nn.LeakyReLU(SLOPE))
