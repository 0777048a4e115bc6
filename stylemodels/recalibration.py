"""Gates that a network puts on its own channels: the Style-based Recalibration Module and what it is compared with.

Each pools a feature map X (N, C, H, W) to a gate in (0, 1) for every channel and gives g * X. Lee, Kim & Nam 2019
(arXiv:1903.10829).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stylemodels.features import at_least_float32

Kind = Literal["none", "se", "ge", "srm"]


class Recalibration(nn.Module, ABC):
    """Y = g(X) * X."""

    def __init__(self) -> None:
        super().__init__()
        self.watchers: list[list[Tensor]] = []  # each is told the gates of every pass

    @abstractmethod
    def gates(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C), in (0, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        gates = self.gates(features)
        for watcher in self.watchers:
            watcher.append(gates.detach())
        return features * gates[..., None, None].to(features.dtype)


class StyleRecalibration(Recalibration):
    """SRM: a channel's gate comes from its own mean and standard deviation alone.

    z = w_1 mu + w_2 sigma;  g = sigmoid(BN(z)), the batch norm over the pictures of the batch. All gates are 1/2 at the
    start (w = 0). In training the batch must have two pictures at least. 4 C parameters.
    """

    def __init__(self, channels: int, *, correction: int = 0, eps: float = 1e-5) -> None:
        """correction: 0 divides the variance by H * W, as the paper has it; 1 by one less, as its code does."""
        super().__init__()
        self.correction, self.eps = correction, eps
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm1d(channels)

    def gates(self, features: Tensor) -> Tensor:
        if self.training and len(features) < 2:
            raise ValueError("batch_size: 1 picture was given, the gates of SRM learn from 2 at least")
        features = at_least_float32(features)
        correction = min(self.correction, features[0, 0].numel() - 1)  # a map of one position has no variance
        var, mean = torch.var_mean(features, dim=(2, 3), correction=correction)
        pooled = torch.stack([mean, (var + self.eps).sqrt()], -1)  # (N, C, 2)
        result: Tensor = self.norm((self.weight * pooled).sum(-1)).sigmoid()
        return result


class SqueezeExcitation(Recalibration):
    """SE: a channel's gate comes from the means of all channels, through a bottleneck of C / reduction."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(max(1, channels // reduction), channels)

    def gates(self, features: Tensor) -> Tensor:
        result: Tensor = self.excite(relu(self.squeeze(features.mean((2, 3))))).sigmoid()
        return result


class GatherExcite(Recalibration):
    """GE: a channel's gate is a learnt weighting of all its positions, so it knows maps of one size only."""

    def __init__(self, channels: int, *, side: int) -> None:
        super().__init__()
        self.side = side
        self.gather = nn.Conv2d(channels, channels, side, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    def gates(self, features: Tensor) -> Tensor:
        if features.shape[-2:] != (self.side, self.side):
            size = " x ".join(map(str, features.shape[-2:]))
            raise ValueError(f"recalibration ge: a map of {size} was given, its gates are built for {self.side} a side")
        result: Tensor = self.norm(self.gather(features)).sigmoid()[..., 0, 0]
        return result


def recalibration(
    kind: Kind, channels: int, *, side: int = 0, reduction: int = 16, correction: int = 0, eps: float = 1e-5
) -> nn.Module:
    """The module of a kind; "none" leaves features as they are. side: of the maps, for "ge" alone."""
    match kind:
        case "none":
            return nn.Identity()
        case "se":
            return SqueezeExcitation(channels, reduction=reduction)
        case "ge":
            return GatherExcite(channels, side=side)
        case "srm":
            return StyleRecalibration(channels, correction=correction, eps=eps)


def style_parameters(network: nn.Module) -> list[nn.Parameter]:
    """All parameters of a network's SRMs: they take no weight decay."""
    modules = [module for module in network.modules() if isinstance(module, StyleRecalibration)]
    return [parameter for module in modules for parameter in module.parameters()]


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """The gates (N, C) of every pass through `network` inside, by the name of the layer."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Recalibration)}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, module in layers.items():
        module.watchers.append(seen[name])
    try:
        yield seen
    finally:
        for module in layers.values():
            module.watchers.pop()
