"""What a network's gates do, channel by channel: as figures, and as a picture to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stylemodels.recalibration import StyleRecalibration

BINS = 10  # of a histogram over (0, 1)
LINE_PX = 8  # height of one picture's line
BETWEEN_PX = 4  # between layers

Gates = Mapping[str, Tensor]  # layer -> (N pictures, C channels), in (0, 1)


def gathered(seen: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """What `recalibration.watched` saw, all passes together; layers that were not passed are left out."""
    return {layer: torch.cat([gates.float().cpu() for gates in passes]) for layer, passes in seen.items() if passes}


def picture(gates: Gates) -> Tensor:
    """(1, 1, h, w) in [0, 1]: a block for each layer, a line for each picture, a column for each channel.

    Black is a closed gate, white an open one; layers with fewer channels have wider columns. Grey lies between layers.
    """
    width = max(values.shape[1] for values in gates.values())
    blocks = []
    for values in gates.values():
        blocks.append(interpolate(values[None, None], size=(LINE_PX * len(values), width)))
        blocks.append(torch.full((1, 1, BETWEEN_PX, width), 0.5))
    return torch.cat(blocks[:-1], dim=2)


def figures(network: nn.Module, gates: Gates, pictures: Sequence[str]) -> dict[str, Any]:
    """JSON. For every layer: a histogram of all its gates, and for every channel mean, std, the pictures that open it
    most and least, and for an SRM the share of sigma in its decision, |w_2| / (|w_1| + |w_2|) (null while both are 0).

    pictures: a name for each line of `gates`.
    """
    modules = dict(network.named_modules())
    return {layer: _layer_figures(modules[layer], values, pictures) for layer, values in gates.items()}


def _layer_figures(module: nn.Module, values: Tensor, pictures: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "histogram": torch.histc(values, BINS, 0, 1).int().tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0, correction=0).tolist(),
        "most_open": [pictures[place] for place in values.argmax(0).tolist()],
        "least_open": [pictures[place] for place in values.argmin(0).tolist()],
    }
    if isinstance(module, StyleRecalibration):
        of_mean, of_std = module.weight.detach().abs().unbind(1)
        shares = (of_std / (of_mean + of_std)).tolist()
        found["sigma_share"] = [share if share == share else None for share in shares]
    return found


class StageFigures:
    """Mean and standard deviation of all gates of each stage of a residual network, for a curve.

    Batches are added up: the gates of a whole validation of large pictures would take gigabytes.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # stage -> how many gates, their sum, the sum of their squares; float64

    def add(self, gates: Gates) -> None:
        for layer, values in gates.items():
            stage = f"stage{int(layer.partition('stages.')[2].partition('.')[0]) + 1}"
            sums = torch.stack([(values.double() ** power).sum() for power in range(3)])
            self.sums[stage] = self.sums[stage] + sums if stage in self.sums else sums

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for stage, (count, total, squares) in self.sums.items():
            mean = total / count
            std = (squares / count - mean**2).clamp_min(0).sqrt()
            found |= {f"gate_mean_{stage}": float(mean), f"gate_std_{stage}": float(std)}
        return found
