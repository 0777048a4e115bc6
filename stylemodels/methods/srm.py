"""SRM: style-based recalibration of channels, Lee, Kim & Nam 2019 (arXiv:1903.10829).

A small module between a network's layers: the mean and standard deviation of a channel decide how far it is let through
(`recalibration.py`). Two trainings show what it does:

    train      fast neural style: with batch norm and SRM a network comes near to one with instance norm
    classify   a residual network on labelled pictures, better at 0.2 % more parameters
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.optim import SGD, Adam, Optimizer

from stylemodels import gates
from stylemodels.augment import CIFAR_BORDER
from stylemodels.blocks import FastStyleNetwork, InstanceNorm
from stylemodels.encoders import EncoderName
from stylemodels.images import resize, scaled_to_shorter
from stylemodels.method import Batch, Given, Method, Needs, NoControls, Picture, Stream, Style, Task
from stylemodels.perceptual import PerceptualLoss
from stylemodels.recalibration import Kind, recalibration, style_parameters, watched
from stylemodels.resnet import Normalised, ResNet, large_resnet, small_resnet
from stylemodels.settings import Common, setting

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE_DEPTHS = (18, 34, 50, 101, 152)
LARGE_LOAD = 256 / 224  # shorter side before the middle of a large picture is cut out
TABLE_PX = 160  # side of the confusion matrix as a picture
DOMAIN_MARK = "__"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `srm/train`; the defaults are the published ones."""

    norm: Literal["bn", "in"] = setting("bn", "batch norm, or instance norm to compare with")
    recalibration: Literal["none", "se", "srm"] = setting("srm", "gates on the channels, or se to compare with")
    placement: Literal["residual", "all"] = setting("residual", "gates end residual branches; all: follow every norm")
    steps: int = setting(40_000, "training steps", ge=1, le=1_000_000)
    batch_size: int = setting(4, "photos per step, over all workers; batch statistics need 2", ge=2, le=64)
    load_size: int = setting(256, "shorter side before the middle is cut out, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=4)
    style_size: int | None = setting(None, "shorter side of the style picture, pixels; null: as it is", ge=32, le=1024)
    lr: float = setting(1e-3, "Adam's learning rate", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's betas", ge=0, lt=1)
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(1e5, "weight of the style term", ge=0, small=1000.0)
    encoder: EncoderName = setting("vgg16", "the fixed encoder that measures content and style")
    width: int = setting(32, "channels of the network's first layer", ge=4, le=64)
    res_blocks: int = setting(5, "residual blocks", ge=1, le=9)
    reduction: int = setting(16, "channels over those of the bottleneck of se", ge=1)
    std_correction: int = setting(0, "1: variances over one position less, as the published code has it", ge=0, le=1)
    eps: float = setting(1e-5, "added to variances under the root", gt=0)
    preview_images: int = setting(4, "photos in the preview grid", ge=1, le=16)
    checkpoint_every: int = setting(2000, "steps between checkpoints", ge=1)


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 keeps the content, 1 takes the network's picture", ge=0, le=1)


class Train(Task):
    """Fast neural style for one painting. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images"}, style_image=True)
    model_parts = ("network",)
    styles = (0, 0)
    multiple = 4
    strength = "alpha"
    stylize_encodes = False
    batch_loss = "own"

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config, self.given = config, given
        self.network = FastStyleNetwork(
            config.width,
            config.res_blocks,
            norm=nn.BatchNorm2d if config.norm == "bn" else InstanceNorm,
            gate=partial(recalibration, config.recalibration, **gate_options(config)),
            gate_all=config.placement == "all",
        )
        self.encoder = given.encoder
        self.loss = PerceptualLoss(self.encoder, content_weight=config.content_weight, style_weight=config.style_weight)
        for tap in self.loss.style_taps:
            channels = self.encoder.channels[tap]
            self.register_buffer(f"gram_{tap}", torch.zeros(1, channels, channels))

    def streams(self) -> dict[str, Stream]:
        c = self.config
        stream = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size, centre=True)
        return {"content": replace(stream, together=2)}  # two at least for a worker's own statistics

    def preview_streams(self) -> dict[str, Stream]:
        return {"content": replace(self.streams()["content"], count=self.config.preview_images, together=1)}

    def calibrate(self, batch: Batch) -> None:
        """The style's Gram matrices, once: the style does not change."""
        style = self.given.style_image
        assert style is not None, "build_task demands one"
        if (shorter := self.config.style_size) is not None:
            width, height = scaled_to_shorter(style.shape[-1], style.shape[-2], shorter)
            style = resize(style, height, width)
        for tap, value in self.loss.style_target(style.to(batch["content"].device)).items():
            self.get_buffer(f"gram_{tap}").copy_(value)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"network": Adam(self.network.parameters(), lr=self.config.lr, betas=self.config.betas)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch; their sum is minimised, each is plotted."""
        photos = batch["content"]
        grams = {tap: self.get_buffer(f"gram_{tap}") for tap in self.loss.style_taps}
        return self.loss(self.network(photos), self.loss.content_target(photos), grams)

    def onnx_form(self) -> nn.Module:
        return self.network

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the model's own style, with the gates of every layer as a map."""
        with watched(self.network) as seen:
            drawn = content.lerp(self.network(content), controls.alpha)
        found = gates.gathered(seen)
        return Picture(drawn, {"gates": gates.picture(found)} if found else {})

    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The usual grid, and the gates of all its photos side by side."""
        with watched(self.network) as seen:
            grid = super().preview(batch)
        return grid + gates_drawn(gates.gathered(seen))

    def model_facts(self) -> dict[str, Any]:
        return {"taps": self.loss.taps_used()}


Recipe = Literal["cifar", "imagenet", "none"]
Arch = Literal[
    "resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Common):
    """Settings of `srm/classify`; the defaults are the published ones for small pictures."""

    arch: Arch = setting("resnet32", "8 to 56 of 6 n + 2 layers: for small pictures; 18, 34, 50, 101, 152: large ones")
    recalibration: Kind = setting("srm", "gates at the ends of residual branches")
    shortcut: Literal["A", "B"] = setting("B", "small pictures: A pads with zeros where channels double, B learns")
    width: int | None = setting(None, "channels of the first stage; null: 16 for small pictures, 64", ge=4, le=256)
    image_size: int | None = setting(None, "side of the pictures, pixels; null: 32 for small ones, 224", ge=16, le=512)
    # published: 100 and 90 epochs of 50,000 and 1.28 million pictures
    steps: int = setting(39_100, "training steps (published: 450450 for large pictures)", ge=1, le=10_000_000)
    milestones: tuple[int, ...] = setting((27_370, 31_280), "where lr falls (large: 150150, 300300)", ge=1)
    gamma: float = setting(0.1, "what lr is multiplied with at a milestone", gt=0, le=1)
    batch_size: int = setting(128, "pictures per step, over all workers (large: 256)", ge=2, le=4096)
    lr: float = setting(0.1, "SGD's learning rate", gt=0)
    momentum: float = setting(0.9, "SGD's momentum", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "SGD's weight decay", ge=0)
    srm_weight_decay: bool = setting(False, "true decays the SRMs too, which hurts")
    augment: Literal["auto", "cifar", "imagenet", "none"] = setting("auto", "crops of small or large pictures; by arch")
    mean: tuple[float, float, float] | None = setting(None, "of red, green, blue; null: CIFAR-10's or ImageNet's")
    std: tuple[float, float, float] | None = setting(None, "of red, green, blue; null: the same's", gt=0)
    normalise: Literal["given", "dataset"] = setting("given", "mean and std as given, or those of the first batch")
    val_fraction: float = setting(0.1, "share of each class that is held out to check with", ge=0, le=0.9)
    folds: int = setting(0, "cross-validation: so many parts, one held out by each job; 0: val_fraction", ge=0, le=20)
    fold: int = setting(0, "which part is held out, from 0", ge=0, le=19)
    domain_level: bool = setting(False, "folders are DOMAIN__CLASS: one classifier of all, with each one's accuracy")
    reduction: int = setting(16, "channels over those of the bottleneck of se", ge=1)
    std_correction: int = setting(0, "1: variances over one position less, as the published code has it", ge=0, le=1)
    eps: float = setting(1e-5, "added to variances under the root", gt=0)
    checkpoint_every: int = setting(2000, "steps between checkpoints and checks", ge=1)


class Classify(Task):
    """Trains a residual network to tell the classes of `objects` apart. Images are RGB in [0, 1]."""

    Config = ClassifyConfig
    needs = Needs(datasets={"objects": "labelled"}, min_per_class=2)
    model_parts = ("network",)
    draws = False
    styles = (0, 0)
    multiple = 1
    least_px = 1  # pictures of any size are scaled and cut
    batch_loss = "own"

    def __init__(self, config: ClassifyConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        if config.folds == 1 or config.fold >= max(config.folds, 1):
            raise ValueError(f"fold: {config.fold} of {config.folds} folds was given; of n >= 2 it is 0 to n - 1")
        named = given.classes.get("objects", ())
        if config.domain_level and (unmarked := [n for n in named if not all(n.rpartition(DOMAIN_MARK)[::2])]):
            raise ValueError(f"domain_level: folder {unmarked[0]!r} is not called DOMAIN{DOMAIN_MARK}CLASS")
        self.folders = named or tuple(f"class-{number}" for number in range(10))
        split = [name.rpartition(DOMAIN_MARK) if config.domain_level else ("", "", name) for name in self.folders]
        self.names = sorted({name for _, _, name in split})
        self.domains = sorted({domain for domain, _, _ in split})
        if len(self.names) < 2:
            raise ValueError(f"objects: there is one class, {self.names[0]!r}, 2 are needed")
        self.large = int(config.arch.removeprefix("resnet")) in LARGE_DEPTHS
        self.size = config.image_size or (224 if self.large else 32)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.large else (CIFAR_MEAN, CIFAR_STD)
        self.network = Normalised(self._resnet(), config.mean or mean, config.std or std)
        self.register_buffer("class_of", torch.tensor([self.names.index(n) for _, _, n in split]), persistent=False)
        self.register_buffer("domain_of", torch.tensor([self.domains.index(d) for d, _, _ in split]), persistent=False)
        self.register_buffer("confusion", torch.zeros(len(self.names), len(self.names), dtype=torch.int64))

    def _resnet(self) -> ResNet:
        c, depth = self.config, int(self.config.arch.removeprefix("resnet"))

        def gate(channels: int, side: int) -> nn.Module:
            return recalibration(c.recalibration, channels, side=side, **gate_options(c))

        if self.large:
            return large_resnet(depth, len(self.names), gate, width=c.width or 64, size=self.size)
        return small_resnet(depth, len(self.names), gate, width=c.width or 16, option=c.shortcut, size=self.size)

    def streams(self) -> dict[str, Stream]:
        c = self.config
        by_arch: Recipe = "imagenet" if self.large else "cifar"
        recipe: Recipe = by_arch if c.augment == "auto" else c.augment
        load_size = 0 if recipe == "imagenet" else self.load_size  # that one cuts its piece out of the whole picture
        stream = self._stream(c.batch_size, "train", load_size)
        return {"objects": replace(stream, augment=recipe, centre=recipe == "none", together=2)}

    def validation_streams(self) -> dict[str, Stream]:
        return {"objects": replace(self._stream(self.config.batch_size, "validation", self.load_size), centre=True)}

    def preview_streams(self) -> dict[str, Stream]:
        return {"objects": replace(self.validation_streams()["objects"], count=4)}

    @property
    def load_size(self) -> int:
        """The shorter side before the middle is cut out."""
        return round(self.size * LARGE_LOAD) if self.large else self.size

    def _stream(self, count: int, part: Literal["train", "validation"], load_size: int) -> Stream:
        c = self.config
        options: dict[str, Any] = {"validation_share": c.val_fraction, "folds": c.folds, "fold": c.fold}
        return Stream("objects", count=count, size=self.size, load_size=load_size, part=part, **options)

    def calibrate(self, batch: Batch) -> None:
        if self.config.normalise == "dataset":
            border = self.size // CIFAR_BORDER  # may be black from augmentation
            inner = batch["objects"][..., border:-border, border:-border]
            std, mean = torch.std_mean(inner, (0, 2, 3))
            self.network.get_buffer("mean").copy_(mean[:, None, None])
            self.network.get_buffer("std").copy_(std[:, None, None].clamp_min(1e-3))

    def optimizers(self) -> dict[str, Optimizer]:
        c = self.config
        plain = [] if c.srm_weight_decay else style_parameters(self.network)
        spared = set(plain)
        decayed = [parameter for parameter in self.network.parameters() if parameter not in spared]
        groups = [{"params": decayed, "weight_decay": c.weight_decay}]
        groups += [{"params": plain, "weight_decay": 0.0}] if plain else []
        return {"network": SGD(groups, lr=c.lr, momentum=c.momentum)}

    def lr_scale(self, name: str) -> float:
        passed = sum(self.step >= milestone for milestone in self.config.milestones)
        return float(self.config.gamma**passed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.network(batch["objects"]).float()
        labels = self.get_buffer("class_of")[batch["objects_label"]]
        return {"class_loss": cross_entropy(scores, labels), "accuracy": (scores.argmax(1) == labels).float().mean()}

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self(batch)
        self.update(self.gradients(terms["class_loss"]))
        return {**terms, "lr": torch.tensor(self.config.lr * self.lr_scale("network"))}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Over the held-out pictures: loss, top-1, top-5, each domain's accuracy, the gates of each stage."""
        stages, pairs = gates.StageFigures(), []
        for batch in batches:
            with watched(self.network) as seen:
                pairs.append((self.network(batch["objects"]).float(), batch["objects_label"]))
            stages.add(gates.gathered(seen))
        scores, folders = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        labels, domains = self.get_buffer("class_of")[folders], self.get_buffer("domain_of")[folders]
        self.get_buffer("confusion").copy_(confusion(scores.argmax(1), labels, len(self.names)))
        found = {"class_loss": float(cross_entropy(scores, labels)), "accuracy": top(scores, labels, 1)}
        if len(self.names) >= 5:
            found["top5"] = top(scores, labels, 5)
        if self.config.domain_level:
            for number, domain in enumerate(self.domains):
                if (here := domains == number).any():
                    found[f"accuracy_{domain}"] = top(scores[here], labels[here], 1)
        return found | stages.figures()

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: NoControls) -> Picture:
        """No picture: the probabilities of all classes, (1, 1, 1, classes), and the gates, if there are any."""
        with watched(self.network) as seen:
            shares = self.network(middle(content, self.load_size, self.size)).float().softmax(1)
        found = gates.gathered(seen)
        return Picture(None, {"classes": shares[None, None], **({"gates": gates.picture(found)} if found else {})})

    def onnx_form(self) -> str:
        return "it is a classifier and draws no pictures"

    @torch.no_grad()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Pictures, the confusion matrix so far (rows: the true class, white: all of it), and the gates."""
        with watched(self.network) as seen:
            self.network(batch["objects"])
        shares = self._confusion_shares()[None, None]
        table = interpolate(shares, size=(max(TABLE_PX, len(self.names)),) * 2)[0].expand(3, -1, -1)
        pictures = [(f"object-{n}", picture) for n, picture in enumerate(batch["objects"], start=1)]
        return [*pictures, ("confusion", table), *gates_drawn(gates.gathered(seen))]

    def _confusion_shares(self) -> Tensor:
        counts = self.get_buffer("confusion").float()
        return counts / counts.sum(1, keepdim=True).clamp_min(1)

    def model_facts(self) -> dict[str, Any]:
        counts = self.get_buffer("confusion")
        right = self._confusion_shares().diagonal().tolist()
        return {
            "classes": {"objects": list(self.folders)},
            "class_names": self.names,
            "confusion": counts.tolist(),  # rows: the true class; held-out pictures
            "class_accuracy": {
                name: share for name, share, row in zip(self.names, right, counts, strict=True) if row.sum() > 0
            },
        }


def gate_options(config: TrainConfig | ClassifyConfig) -> dict[str, Any]:
    return {"reduction": config.reduction, "correction": config.std_correction, "eps": config.eps}


def confusion(found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes, classes), int64: how many pictures of the row's class were taken for the column's."""
    return torch.bincount(classes * labels + found, minlength=classes**2).view(classes, classes)


def top(scores: Tensor, labels: Tensor, count: int) -> float:
    """The share of pictures whose class is among the `count` best."""
    return float((scores.topk(count, 1).indices == labels[:, None]).any(1).float().mean())


def middle(images: Tensor, shorter: int, size: int) -> Tensor:
    """Pictures (N, 3, H, W) scaled to a shorter side, and the square in their middle."""
    width, height = scaled_to_shorter(images.shape[-1], images.shape[-2], shorter)
    scaled = resize(images, height, width)
    above, left = (height - size) // 2, (width - size) // 2
    return scaled[..., above : above + size, left : left + size]


def gates_drawn(found: gates.Gates) -> list[tuple[str, Tensor]]:
    """A picture of the gates for a preview grid, where there are any."""
    return [("gates", gates.picture(found)[0].expand(3, -1, -1))] if found else []


METHOD = Method(
    slug="srm",
    title="SRM: A Style-based Recalibration Module",
    paper="arXiv:1903.10829",
    tasks={"train": Train, "classify": Classify},
)
