"""Tiny pictures, batches and runs for the tests of the style library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.cost import some_classes
from stylemodels.encoders import load_encoder
from stylemodels.images import save_picture
from stylemodels.method import Base, Batch, Stream, Task
from stylemodels.methods import find_task
from stylemodels.settings import as_json, build
from stylemodels.train import Run, build_task

# Settings that make a task small enough for a test: seconds for a hundred steps.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "aams/avatar-net": {"encoder": "random", "content_size": 32, "batch_size": 2, "lr": 1e-3, "adam_eps": 1e-8},
    "aams/style-swap": {"encoder": "random", "content_size": 32, "style_size": 32, "batch_size": 2},
    "aams/train": {
        "encoder": "random",
        "content_size": 32,
        "batch_size": 2,
        "lr": 1e-3,
        "adam_eps": 1e-8,
        "attention_dim": 16,
        "attention_scale": "sqrt_d",
    },
    "adain/train": {"encoder": "random", "batch_size": 2, "content_size": 32, "style_size": 32, "lr": 3e-3},
    "collaborative-distillation/distill": {
        "encoder": "random",
        "stages": [2],
        "steps": 24,
        "batch_size": 2,
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "lr": 2e-3,
    },
    "collaborative-distillation/train-decoder": {
        "encoder": "random",
        "stages": [2],
        "batch_size": 2,
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "lr": 3e-3,
    },
    "etnet/train": {
        "encoder": "random",
        "levels": [3, 2],
        "steps": 20,
        "batch_size": 2,
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "lr": 1e-3,
        "start_std": 0.05,
    },
    "gatys/optimise": {"encoder": "random"},
    "johnson/train": {
        "encoder": "random",
        "width": 8,
        "res_blocks": 1,
        "content_size": 32,
        "style_size": 32,
        "batch_size": 2,
        "style_weight": 20.0,
    },
    "linear/train": {
        "encoder": "random",
        "decoder_steps": 24,
        "layer": "r31",
        "matrix_size": 8,
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "batch_size": 2,
        "lr": 1e-3,
    },
    "linear/train-filter": {"content_size": 32, "load_size": 32, "batch_size": 2},
    "metastyle/train": {
        "encoder": "random",
        "width": 8,
        "res_blocks": 1,
        "content_size": 32,
        "style_size": 32,
        "batch_size": 2,
        "meta_batch": 2,
        "style_weight": 20.0,
        "inner_lr": 0.005,
    },
    "metastyle/adapt": {
        "encoder": "random",
        "width": 8,
        "res_blocks": 1,
        "content_size": 32,
        "style_size": 32,
        "batch_size": 2,
        "style_weight": 20.0,
    },
    "mst/train": {
        "encoder": "random",
        "warmup_recon_iters": 24,
        "batch_size": 2,
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "style_weight": 0.05,
        "smooth_lambda": 0.02,
        "lr": 2e-3,
    },
    "sanet/train": {
        "encoder": "random",
        "content_size": 32,
        "style_size": 32,
        "batch_size": 2,
        "lr": 1e-3,
    },
    "solver/train": {
        "encoder": "random",
        "widths": [8, 8, 8, 8],
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "batch_size": 2,
        "lr": 1e-2,
    },
    "srm/train": {
        "encoder": "random",
        "width": 8,
        "res_blocks": 1,
        "content_size": 32,
        "load_size": 32,
        "style_size": 32,
        "batch_size": 2,
        "style_weight": 20.0,
    },
    "srm/classify": {"arch": "resnet8", "width": 8, "image_size": 16, "batch_size": 4, "lr": 0.02},
    "wct/train": {
        "encoder": "random",
        "levels": [3, 1],
        "steps": 24,
        "lr": 0.003,
        "content_size": 32,
        "load_size": 32,
        "batch_size": 2,
    },
    "total/train": {
        "encoder": "random",
        "content_size": 32,
        "style_size": 32,
        "load_size": 32,
        "batch_size": 2,
        "lr": 1e-3,
    },
    "ctb/train": {
        "width": 8,
        "f": 8,
        "t_blocks": 1,
        "decoder_res_blocks": 0,
        "warmup_step1": 0,
        "content_size": 64,
        "norm": "group",  # what lfn is at this size, but for an export that takes a minute
        "dsr": -1.0,
        "w_pxl": 100.0,
        "w_adv_style": 1.0,
        "w_scene": 1.0,
        "w_adv_cont": 1.0,
        "lr": 5e-4,
    },
    "tpfr/train": {
        "batch_size": 1,
        "content_size": 48,
        "load_size": 48,
        "width": 8,
        "ndf": 8,
        "res_blocks": 1,
        "knn": 4,  # with 5 the ONNX test's pictures have a fifth and a sixth neighbour as far but for rounding
        "pool_size": 2,
        "lr": 1e-3,
    },
}

# How streams are known whose pictures have classes.
LABELLED, LABELLED_AUGMENTS = ("objects",), ("ctb", "ctb-artwork")

# Biases in front of an instance norm have no gradient but noise.
USELESS_BIASES = ("conv1.bias", "conv2.bias", "conv3.bias", "deconv1.bias", "deconv2.bias")


def in_use(name: str) -> bool:
    """Whether a parameter of the fast-neural-style network has any effect."""
    return not name.endswith(USELESS_BIASES)


def photos(count: int, size: int, seed: int = 0) -> Tensor:
    """Blurred noise in [0, 1]: (count, 3, size, size)."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=random)
    fine = torch.rand(count, 3, size, size, generator=random)
    return 0.95 * interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) + 0.05 * fine


def paintings(count: int, size: int, seed: int = 0) -> Tensor:
    """Noisy stripes of two colours in [0, 1], each of another direction and width: (count, 3, size, size)."""
    random = torch.Generator().manual_seed(1000 + seed)
    axis = torch.arange(size, dtype=torch.get_default_dtype())
    pictures = []
    for _ in range(count):
        angle, pitch = torch.rand(2, generator=random).tolist()
        across, down = math.cos(6.3 * angle), math.sin(6.3 * angle)
        waves = torch.sin((axis * across + axis[:, None] * down) * (0.4 + 0.6 * pitch))
        first, second = torch.rand(2, 3, 1, 1, generator=random)
        pictures.append(first.lerp(second, 0.5 + 0.5 * waves))
    return 0.95 * torch.stack(pictures) + 0.05 * torch.rand(count, 3, size, size, generator=random)


def batch_of(streams: Mapping[str, Stream], step: int = 0) -> dict[str, Tensor]:
    """A batch of toy pictures for these streams, a function of the step; labelled ones have two classes."""
    batch = {}
    for place, (name, stream) in enumerate(streams.items()):
        draw = paintings if stream.dataset == "style" else photos
        batch[name] = draw(stream.count, stream.size, seed=100 * step + place)
        if stream.dataset in LABELLED or stream.augment in LABELLED_AUGMENTS:
            batch[f"{name}_label"] = torch.arange(stream.count) // stream.per_class % 2
    return batch


def small_task(name: str, *, seed: int = 0, base: Base | None = None, **settings: Any) -> Task:
    """The task "method/task" at toy size, with `settings` over that."""
    method, task_name = find_task(name)
    task_class = method.tasks[task_name]
    if base is None and task_class.needs.base_model and task_class.needs.base_model_required:
        base = base_of(small_task(task_class.needs.base_model), task_class.needs.base_model)
    config = build(task_class.Config, {**SMALL[name], **settings}, base and base.config)
    style_image = paintings(1, 48, seed=2) if task_class.needs.style_image else None
    encoder = load_encoder(config.encoder) if hasattr(config, "encoder") else None
    return build_task(
        task_class,
        config,
        seed=seed,
        encoder=encoder,
        base=base,
        style_image=style_image,
        classes=some_classes(task_class.needs, config),
    )


def small_run(name: str, *, seed: int = 0, base: Base | None = None, **settings: Any) -> Run:
    return Run(small_task(name, seed=seed, base=base, **settings), seed=seed)


def advance(run: Run, steps: int) -> list[dict[str, float]]:
    """So many steps on toy pictures; the terms of each."""
    return [run.advance(batch_of(run.streams(), run.step)) for _ in range(steps)]


def base_of(task: Task, name: str) -> Base:
    """A task's model as the base of another's."""
    method, _, task_name = name.partition("/")
    tensors = {key: value.clone() for key, value in task.model_tensors().items()}
    return Base(method, task_name, as_json(task.config), tensors)


def write_pictures(folder: Path, pictures: Iterable[Tensor]) -> Path:
    """Pictures (3, H, W) as PNG files of a new folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        save_picture(picture, folder / f"{number}.png")
    return folder


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Same names, and every tensor bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fixed_batch(task: Task) -> Batch:
    return batch_of(task.streams(), step=0)
