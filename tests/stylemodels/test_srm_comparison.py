"""Check 10, the paper's comparison of norms and gates, on photographs: batch norm is worst, instance norm best.

At 32 pixels and with four photographs a step, networks with and without SRM differ by less than two seeds do. What
makes figures repeat are larger photographs, more of them, and running statistics that have settled.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor, nn

from stylemodels.encoders import load_encoder
from stylemodels.images import resize, scaled_to_shorter
from stylemodels.methods.srm import Train, TrainConfig
from stylemodels.settings import build
from stylemodels.train import Run, build_task

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
STEPS, SEEDS, BATCH, SIZE = 400, 3, 8, 64
STYLE_WEIGHT = 1000.0


def picture(name: str, shorter: int) -> Tensor:
    levels = np.ascontiguousarray(getattr(skimage.data, name)())
    image = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255
    width, height = scaled_to_shorter(image.shape[-1], image.shape[-2], shorter)
    return resize(image, height, width)


def crops(photos: list[Tensor], count: int, seed: int, size: int) -> Tensor:
    """Crops of photographs, each of another contrast: (count, 3, size, size)."""
    random = torch.Generator().manual_seed(seed)
    pieces = []
    for _ in range(count):
        photo = photos[int(torch.randint(len(photos), (), generator=random))]
        top, left = (int(torch.randint(side - size + 1, (), generator=random)) for side in photo.shape[-2:])
        contrast = 0.1 + 0.9 * torch.rand((), generator=random)
        pieces.append(0.5 + contrast * (photo[..., top : top + size, left : left + size] - 0.5))
    return torch.cat(pieces)


@torch.no_grad()
def settle(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Gather the batch norms' running statistics anew, all batches counting alike.

    Those of the training are of its last ten steps or so, while the weights still moved: with them the style loss of a
    network is 0.8 to 3.4 times what it is with settled ones (measured).
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    for batch in batches:
        network(batch)


def style_losses(norm: str, recalibration: str, *, steps: int, seeds: int, size: int = SIZE) -> list[float]:
    """On 16 photographs, by finished networks of so many seeds."""
    photos, style = [picture(name, 2 * size) for name in PHOTOS], picture("immunohistochemistry", 2 * size)
    settings = {"norm": norm, "recalibration": recalibration, "encoder": "small-narrow", "width": 8, "res_blocks": 2}
    settings |= {"content_size": size, "load_size": size, "style_weight": STYLE_WEIGHT, "batch_size": BATCH}
    losses = []
    for seed in range(seeds):
        encoder = load_encoder("small-narrow")
        task = build_task(Train, build(TrainConfig, settings), seed=seed, encoder=encoder, style_image=style)
        assert isinstance(task, Train)
        run = Run(task, seed=seed)
        for step in range(steps):
            run.advance({"content": crops(photos, BATCH, 100_000 * seed + step, size)})
        settle(task.network, (crops(photos, BATCH, 7_000_000 + number, size) for number in range(32)))
        with torch.no_grad():
            terms = task.eval()({"content": crops(photos, 16, 99_999, size)})
        losses.append(float(terms["style_loss"]) / STYLE_WEIGHT)
    return losses


@pytest.mark.slow
def test_check_10_the_norms_and_gates_come_in_the_paper_s_order():
    """Measured: BN .000128, SE .000117, SRM .000113, IN .000076, the paper's whole order. SE and SRM are so near each
    other (one seed of three has them the other way round) that only the rest is demanded.
    """
    kinds = {"bn": ("bn", "none"), "se": ("bn", "se"), "srm": ("bn", "srm"), "in": ("in", "none")}
    losses = {name: style_losses(*kind, steps=STEPS, seeds=SEEDS) for name, kind in kinds.items()}
    means = {name: fmean(of_seeds) for name, of_seeds in losses.items()}
    print(losses, means)
    assert means["in"] < min(means["srm"], means["se"])
    assert max(means["srm"], means["se"]) < means["bn"]


@pytest.mark.parametrize("kind", [("bn", "se"), ("bn", "srm"), ("in", "none")])
def test_check_10_in_short_a_style_is_learnt(kind: tuple[str, str]):
    (before,) = style_losses(*kind, steps=1, seeds=1, size=32)
    (after,) = style_losses(*kind, steps=15, seeds=1, size=32)
    assert after < before
