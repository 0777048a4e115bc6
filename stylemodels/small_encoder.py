"""Trains the small encoder that comes with the package: distillation from a wider network of the same layout.

    python -m stylemodels.small_encoder --teacher wct_se_16x_5SE.safetensors --content DIR --out FILE

The teacher is the published 16x network of Collaborative Distillation (Wang et al. 2020, arXiv:2003.08436) with its
embeddings Q, which map its features into the widths of VGG-19. The student starts as the teacher with its weakest
filters cut away (Li et al. 2017, arXiv:1608.08710) and learns by equation 5 of the former alone: at every tap, its own
embedded features are to be the teacher's.

This module has a training loop of its own, because an encoder is what a `Task` is given, not what it makes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from stylemodels.checkpoint import load_tensors, save_tensors
from stylemodels.data import FolderSource, generator
from stylemodels.encoders import SMALL_DEPTHS, SMALL_WIDTHS, SmallNetwork
from stylemodels.images import decode, to_float
from stylemodels.sources import PictureSource

HELD_OUT_EVERY = 10  # pictures, in the order of their digests
BLOCKS = range(1, 6)
TEACHER = (
    "16x network of Collaborative Distillation, stage 5, with its embeddings (MingSun-Tse/Collaborative-Distillation)"
)
TEACHER_LICENCE = "MIT, (c) 2020 Huan Wang"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the student is trained."""

    widths: tuple[int, ...] = SMALL_WIDTHS
    steps: int = 2500
    seed: int = 0
    batch_size: int = 8
    crop: int = 96  # pixels
    lr: float = 2e-3
    warmup: int = 100  # steps in which the rate rises; then a cosine takes it to 0
    clip_norm: float = 1.0
    bfloat16: bool = True


@dataclass(frozen=True, kw_only=True)
class TapFigures:
    """How far the student F is from the teacher T at one tap, over every position of every picture."""

    error: float  # sum (F - T)^2 / sum T^2, of the embedded features before the closing ReLU
    centred_error: float  # the same over sum (T - mean of its channel)^2
    relu_error: float  # sum (F - T)^2 / sum T^2 after the ReLU
    gram_error: float  # the same of the Gram matrices F F^T / (H W) after the ReLU
    mean_activation: float  # of the student, after the ReLU


def kept_filters(weight: Tensor, count: int) -> Tensor:
    """Indices, ascending, of the `count` filters of `weight` (out, in, h, w) with the largest L1 norms."""
    return weight.abs().sum((1, 2, 3)).topk(count).indices.sort().values


@torch.no_grad()
def pruned(teacher: SmallNetwork, widths: Sequence[int]) -> SmallNetwork:
    """The teacher at fewer channels: the strongest filters stay, what follows loses the same inputs; conv0 is copied.

    Raises ValueError for the teacher's own widths, which would be a copy, and for wider ones.
    """
    if tuple(widths) == teacher.widths:
        raise ValueError(f"widths {tuple(widths)} are the teacher's own: pruning to them would be a copy")
    if any(width > own for width, own in zip(widths, teacher.widths, strict=True)):
        raise ValueError(f"widths {tuple(widths)} exceed the teacher's {teacher.widths}: pruning only takes away")
    tensors = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    inputs = torch.arange(3)
    for block in BLOCKS:
        for index in range(1, SMALL_DEPTHS[block - 1] + 1):
            name = f"conv{block}{index}"
            weight = tensors[f"{name}.weight"]
            kept = kept_filters(weight, widths[block - 1])
            tensors[f"{name}.weight"] = weight[kept][:, inputs]
            tensors[f"{name}.bias"] = tensors[f"{name}.bias"][kept]
            inputs = kept
            if index == 1:
                tensors[f"{name}_aux.weight"] = tensors[f"{name}_aux.weight"][:, kept]
    return SmallNetwork.of(tensors)


def embedded_features(network: SmallNetwork, images: Tensor) -> list[Tensor]:
    """Q of relu1_1 ... relu5_1, before the closing ReLU: five (N, C, H / stride, W / stride)."""
    return [network.embedded(features, block) for block, features in zip(BLOCKS, network(images), strict=True)]


def embedding_losses(student: Sequence[Tensor], teacher: Sequence[Tensor], teacher_square: Tensor) -> Tensor:
    """Equation 5 at every tap, over the teacher's mean square there: (5,)."""
    errors = [mse_loss(own.float(), other.float()) for own, other in zip(student, teacher, strict=True)]
    return torch.stack(errors) / teacher_square


class Crops:
    """Random flipped squares out of pictures at full or half scale, a function of (seed, step)."""

    def __init__(self, pictures: Sequence[Tensor], recipe: Recipe) -> None:
        """pictures: (3, H, W), uint8; half of the shorter side must hold a crop, else ValueError."""
        self.recipe = recipe
        self.scales = [(picture, halved(picture)) for picture in pictures]
        if (least := min(min(half.shape[1:]) for _, half in self.scales)) < recipe.crop:
            raise ValueError(f"pictures must have {2 * recipe.crop} px at least, one has {2 * least}")

    def at(self, step: int) -> Tensor:
        """(N, 3, crop, crop), float32 in [0, 1]."""
        random = generator(f"{self.recipe.seed}/crops/{step}")
        return to_float(torch.stack([self._crop(random) for _ in range(self.recipe.batch_size)]))

    def _crop(self, random: np.random.Generator) -> Tensor:
        picture = self.scales[random.integers(len(self.scales))][random.integers(2)]
        side = self.recipe.crop
        top, left = (int(random.integers(length - side + 1)) for length in picture.shape[1:])
        crop = picture[:, top : top + side, left : left + side]
        return crop.flip(2) if random.integers(2) else crop


def halved(picture: Tensor) -> Tensor:
    """(3, H, W), uint8, at half its sides."""
    size = (picture.shape[1] // 2, picture.shape[2] // 2)
    return interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0]


def distil(
    teacher: SmallNetwork, pictures: Sequence[Tensor], recipe: Recipe, log: Callable[[int, Tensor], None]
) -> SmallNetwork:
    """A student of `teacher` at the recipe's widths, trained on `pictures`, each (3, H, W), uint8.

    log: called with every step, from 1, and the five losses. The same seed, threads and CPU give the same bits.
    """
    student = pruned(teacher, recipe.widths)
    student.conv0.requires_grad_(False)
    crops = Crops(pictures, recipe)
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=recipe.lr)
    with torch.no_grad():
        sample = embedded_features(teacher, torch.cat([crops.at(-step) for step in range(1, 5)]))
        teacher_square = torch.stack([features.square().mean() for features in sample])
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.lr * rate(step, recipe)
        images = crops.at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            with torch.no_grad():
                target = embedded_features(teacher, images)
            losses = embedding_losses(embedded_features(student, images), target, teacher_square)
        optimizer.zero_grad()
        torch.autograd.backward(losses.sum())
        nn.utils.clip_grad_norm_(learned, recipe.clip_norm)
        optimizer.step()
        log(step + 1, losses.detach())
    return student.requires_grad_(False)


def rate(step: int, recipe: Recipe) -> float:
    """What `lr` is multiplied with at `step`, counted from 0: a linear warm-up, then half a cosine down to 0."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1))


@torch.inference_mode()
def compare(student: SmallNetwork, teacher: SmallNetwork, pictures: Sequence[Tensor]) -> dict[str, TapFigures]:
    """The five taps' figures over whole `pictures`, each (3, H, W), uint8, all positions pooled."""
    sums = [TapSums() for _ in BLOCKS]
    for picture in pictures:
        image = to_float(picture)[None]
        pairs = zip(embedded_features(student, image), embedded_features(teacher, image), strict=True)
        for tap, (own, other) in zip(sums, pairs, strict=True):
            tap.add(own[0].flatten(1), other[0].flatten(1))
    return {f"relu{block}_1": tap.figures() for block, tap in zip(BLOCKS, sums, strict=True)}


class TapSums:
    """Running sums behind `TapFigures`."""

    def __init__(self) -> None:
        self.positions = 0
        self.channel_sum: Tensor = torch.zeros(())
        self.square = self.error = self.relu_square = self.relu_error = 0.0
        self.gram_square = self.gram_error = self.activation = 0.0

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Both (C, positions), before the ReLU."""
        self.positions += teacher.shape[1]
        self.channel_sum = self.channel_sum + teacher.sum(1).double()
        self.square += squared(teacher)
        self.error += squared(student - teacher)
        student, teacher = student.relu(), teacher.relu()
        self.relu_square += squared(teacher)
        self.relu_error += squared(student - teacher)
        self.activation += float(student.sum()) / len(student)
        student_gram, teacher_gram = (f @ f.T / f.shape[1] for f in (student, teacher))
        self.gram_square += squared(teacher_gram)
        self.gram_error += squared(student_gram - teacher_gram)

    def figures(self) -> TapFigures:
        means = squared(self.channel_sum) / self.positions
        return TapFigures(
            error=self.error / self.square,
            centred_error=self.error / (self.square - means),
            relu_error=self.relu_error / self.relu_square,
            gram_error=self.gram_error / self.gram_square,
            mean_activation=self.activation / self.positions,
        )


def squared(values: Tensor) -> float:
    return float(values.square().sum())


@torch.inference_mode()
def tap_rms(network: SmallNetwork, pictures: Sequence[Tensor]) -> Tensor:
    """Root mean square of relu1_1 ... relu5_1 at the network's own widths, over all positions of `pictures`: (5,)."""
    totals, counts = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for picture in pictures:
        features = network(to_float(picture)[None])
        totals += torch.tensor([squared(tap) for tap in features], dtype=torch.float64)
        counts += torch.tensor([tap.numel() for tap in features], dtype=torch.float64)
    return (totals / counts).sqrt().float()


def split(source: PictureSource) -> tuple[list[Tensor], list[Tensor]]:
    """All pictures of `source`, decoded: those to train on, and every tenth held out."""
    pictures = [decode(source.read(index)) for index in range(len(source.digests))]
    held_out = pictures[::HELD_OUT_EVERY]
    return [picture for index, picture in enumerate(pictures) if index % HELD_OUT_EVERY], held_out


def describe(
    recipe: Recipe, teacher: Path, source: PictureSource, figures: dict[str, dict[str, TapFigures]]
) -> dict[str, str]:
    """What the weight file says about where it comes from."""
    shown = {data: {tap: asdict(values) for tap, values in taps.items()} for data, taps in figures.items()}
    return {
        "what": "small encoder of stylefoundry: VGG-19's layout up to relu5_1, embeddings Q, tap_rms",
        "licence": "Apache-2.0; initialised from the teacher, whose licence is MIT",
        "teacher": TEACHER,
        "teacher_licence": TEACHER_LICENCE,
        "teacher_sha256": hashlib.sha256(teacher.read_bytes()).hexdigest(),
        "data": f"{len(source.digests)} photographs, every {HELD_OUT_EVERY}th by digest held out",
        "data_sha256": hashlib.sha256("".join(source.digests).encode()).hexdigest(),
        "command": "python -m stylemodels.small_encoder --teacher wct_se_16x_5SE.safetensors --content DIR --out FILE"
        f" --steps {recipe.steps} --seed {recipe.seed}",
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
        "figures": json.dumps(shown, sort_keys=True),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stylemodels.small_encoder", description="Train the small encoder.")
    parser.add_argument("--teacher", type=Path, required=True, help="the 16x network's file, safetensors")
    parser.add_argument("--content", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--paintings", type=Path, help="folder of other pictures to report figures for")
    parser.add_argument("--out", type=Path, required=True, help="the weight file to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    given = parser.parse_args(arguments)

    recipe = Recipe(steps=given.steps, seed=given.seed)
    teacher = SmallNetwork.of(load_tensors(given.teacher)).requires_grad_(False)
    source = FolderSource(given.content)
    train, held_out = split(source)
    student = distil(teacher, train, recipe, print_losses)

    figures = {"held_out": compare(student, teacher, held_out)}
    if given.paintings is not None:
        paintings = FolderSource(given.paintings)
        decoded = [decode(paintings.read(index)) for index in range(len(paintings.digests))]
        figures["paintings"] = compare(student, teacher, decoded)
    tensors = student.state_dict() | {"tap_rms": tap_rms(student, train)}
    save_tensors(tensors, given.out, describe(recipe, given.teacher, source, figures))
    print(json.dumps({data: {tap: asdict(f) for tap, f in taps.items()} for data, taps in figures.items()}, indent=2))


def print_losses(step: int, losses: Tensor) -> None:
    if step == 1 or step % 100 == 0:
        print(f"step {step}: " + " ".join(f"{loss:.4f}" for loss in losses.tolist()), flush=True)


if __name__ == "__main__":
    main()
