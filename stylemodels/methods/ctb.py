"""CTB: A Content Transformation Block for Image Style Transfer, Kotovenko et al. 2019 (arXiv:2003.08407).

One model draws as one artist does. An encoder E, a block T that changes content as this artist would, a decoder D;
two discriminators: D_s sees pictures, D_c sees codes:

    x^ = D(T(E(x)))
    L_adv-style = log D_s(y) + log(1 - D_s(x^ | s))            equation 8; x a photo of scene s, y an artwork
    L_adv-cont = log D_c(E(y) | c) + log(1 - D_c(T(E(x)) | c)) equation 9; c the class of the object in both
    L_FP = |E(x^) - E(x)|^2                                    equation 10
    L_pxl = |x^ - x|^2                                         between averages over 10 x 10 pixels
    step 1: min over E, D, max over D_s    w_pxl L_pxl + w_fp L_FP + w_adv_style L_adv-style
    step 2: min over T, max over D_c       w_adv_cont L_adv-cont + w_adv_style L_adv-style

A discriminator is not told classes: it tells them, and both sides are asked that it be right (see `conditioning`). What
the paper leaves open follows the same authors' other methods: weights, the pooled L_pxl, the layouts of discriminators
and who of the two sides moves when. Their earlier method is w_adv_style 1, w_pxl 100, w_fp 100, w_scene 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam, Optimizer

from stylemodels.adversarial import (
    AdversarialForm,
    Gate,
    accuracy,
    adversarial_loss,
    class_terms,
    discriminator_loss,
    wins,
)
from stylemodels.class_lists import check_scenes, places_in
from stylemodels.collapse import variety
from stylemodels.ctb_losses import DISTANCES, Metric, pooled_loss
from stylemodels.ctb_networks import (
    CODE_PX,
    MIN_SIZE_PX,
    MIN_WINDOW_PX,
    ContentDiscriminator,
    ContentEncoder,
    ContentTransformation,
    ExplicitForm,
    StyleDecoder,
    StyleDiscriminator,
    check_channels,
)
from stylemodels.distributed import weight_of
from stylemodels.local_norm import NormForm, NormKind
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.phases import Stretch
from stylemodels.settings import Common, setting
from stylemodels.square_map import check_square, stretched
from stylemodels.stages import Stage, checked_stages, stage_at, stages_until

Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `ctb/train`; the defaults are the published ones, or those of the authors' other methods."""

    steps: int = setting(300_000, "training steps of both kinds, after the warm-up", ge=1)
    warmup_step1: int = setting(50_000, "steps before, without T and D_c", ge=0)
    step1_per_cycle: int = setting(1, "updates of E, D and D_s in a training step", ge=1, le=16)
    step2_per_cycle: int = setting(1, "updates of T and D_c in a training step", ge=1, le=16)
    batch_size: int = setting(1, "pictures of each kind per update, over all workers", ge=1)
    content_size: int = setting(768, "side of all training crops, pixels", ge=MIN_SIZE_PX, multiple_of=CODE_PX)
    load_size: int = setting(0, "shorter side before the crop, pixels; 0: its own, photos twice, with limits", ge=0)
    progressive: tuple[tuple[int, int, int, int], ...] | None = setting(
        None, "stages of [content_size, batch_size, lfn_window, until this step], instead of these three; null: one"
    )
    object_classes: tuple[str, ...] = setting(
        ("person", "other"), "classes of the objects in photos and artworks, as their folders are called"
    )
    lr: float = setting(2e-4, "Adam's learning rate", gt=0)
    beta1: float = setting(0.9, "Adam's first beta", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam's second beta", ge=0, lt=1)
    w_adv_style: float = setting(20.0, "of equation 8", ge=0)
    w_pxl: float = setting(200.0, "of L_pxl, pixels in [-1, 1]", ge=0)
    w_fp: float = setting(1.0, "of equation 10; 100 where content is lost", ge=0)
    w_scene: float = setting(7.6, "of the cross-entropy of scenes", ge=0)
    w_adv_cont: float = setting(20.0, "of equation 9", ge=0)
    w_object: float = setting(1.0, "of the cross-entropy of objects", ge=0)
    pixel_pool: int = setting(10, "L_pxl is taken between averages over so many pixels; 1: between pixels", ge=1, le=64)
    fp_metric: Metric = setting("l2", "how L_FP measures: squares, magnitudes, or (1 - cosine)^2 at each position")
    conditioning: Literal["ac", "projection", "none"] = setting(
        "ac", "discriminators tell classes, or are told them (by a projection), or know of none"
    )
    adv_form: AdversarialForm = setting("bce", "cross-entropy (not saturating), or least squares")
    photo_as_fake: bool = setting(False, "D_s also learns that photos are no artworks; helps at the start")
    dsr: float = setting(
        0.8, "share of wins at which a discriminator waits for its opponent; below 0 both always move", le=1
    )
    dsr_momentum: float = setting(0.05, "how much one update counts in the running share of wins", gt=0, le=1)
    width: int = setting(32, "channels of the first layer of E", ge=8)
    f: int = setting(64, "half of the channels of D_s's first layer", ge=8)
    t_blocks: int = setting(9, "residual blocks of T; 0: there is no T, and no second kind of update", ge=0, le=12)
    decoder_res_blocks: int = setting(9, "residual blocks at the start of D", ge=0, le=12)
    t_identity_init: bool = setting(True, "T begins as the identity")
    norm: NormKind = setting("lfn", "local feature normalisation, instance norm or group norm")
    lfn_window: int = setting(
        256, "side of the norm's window, pixels; each layer's stride divides it", ge=MIN_WINDOW_PX
    )
    lfn_group: int = setting(32, "channels that share their statistics", ge=2)
    checkpoint_every: int = setting(5000, "steps between checkpoints", ge=1)
    onnx: bool = setting(False, "the finished model also as model.onnx; takes some minutes with lfn")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    t_strength: float = setting(1.0, "how far T changes the content: 0 not at all, above 1 exaggerates", ge=0, le=1.5)
    t_mask: tuple[float, ...] = setting(
        (), "how much of t_strength where: a square map row by row, stretched over the picture; none: all", ge=0, le=1
    )

    def __post_init__(self) -> None:
        check_square("t_mask", self.t_mask)


class Train(Task):
    """Trains E, D and T against D_s and D_c. Images are RGB in [0, 1], networks see [-1, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(
        datasets={"content": "labelled", "objects": "labelled", "style": "labelled"},
        classes={"objects": "object_classes", "style": "object_classes"},
        min_classes=1,  # that scenes are two is checked below
    )
    stretches = (Stretch("warmup", steps=("warmup_step1",)), Stretch("train"))
    model_parts = ("encoder", "transform", "decoder")
    styles = (0, 0)

    def __init__(self, config: TrainConfig, given: Given) -> None:
        """Raises ValueError for classes that do not fit together, and for settings that cannot be used."""
        super().__init__()
        self.config, self.stages = config, stages_of(config)
        norms, code = NormForm(config.norm, config.lfn_group), 8 * config.width
        check_channels(config.width, config.f, norms)
        self.encoder = ContentEncoder(config.width, norms)
        self.transform = ContentTransformation(code, config.t_blocks, norms, identity=config.t_identity_init)
        self.decoder = StyleDecoder(config.width, config.decoder_res_blocks, norms)
        self.style_gate = Gate(config.dsr, config.dsr_momentum)
        self.content_gate = Gate(config.dsr, config.dsr_momentum)
        self.critics = nn.ModuleDict()  # D_s and D_c; a finished model has none
        if given.classes:
            objects, how = config.object_classes, config.conditioning
            check_scenes("content", given.classes["content"])
            self.critics["style"] = StyleDiscriminator(config.f, len(given.classes["content"]), norms, how)
            self.critics["content"] = ContentDiscriminator(code, config.f, len(objects), norms, how)
            for name in ("objects", "style"):  # the number of a folder -> that of the class in object_classes
                places = places_in(objects, name, given.classes[name], setting="object_classes")
                self.register_buffer(f"{name}_places", torch.tensor(places), persistent=False)

    @property
    def transforms(self) -> bool:
        """Whether the phase has updates of the second kind."""
        return self.phase == "train" and self.config.t_blocks > 0

    @property
    def stage(self) -> Stage:
        """That of the next step."""
        return stage_at(self.stages, self.step + (self.config.warmup_step1 if self.phase == "train" else 0))

    def streams(self) -> dict[str, Stream]:
        return self.streams_at(self.stage)

    def streams_at(self, stage: Stage) -> dict[str, Stream]:
        """Photos of scenes and artworks for the first kind of update, objects and artworks for the second."""
        first, second = self.config.step1_per_cycle, self.config.step2_per_cycle
        streams = {"content": self.stream("content", stage, first), "style": self.stream("style", stage, first)}
        if self.transforms:
            streams["objects"] = self.stream("objects", stage, second, balanced=True)
            streams["artworks"] = self.stream("style", stage, second, balanced=True)
        return streams

    def stream(self, dataset: str, stage: Stage, updates: int, *, balanced: bool = False) -> Stream:
        """Pictures for so many updates; those of one place in the batch of each lie side by side."""
        cut = Stream(dataset, count=stage.batch * updates, size=stage.size, load_size=self.config.load_size)
        recipe: Literal["ctb", "ctb-artwork"] = "ctb-artwork" if dataset == "style" else "ctb"
        return replace(cut, augment=recipe, together=updates, balanced=balanced)

    def begin(self, phase: str, step: int) -> None:
        """Raises ValueError when a later stage has too few pictures for all workers."""
        super().begin(phase, step)
        for stage in self.stages:
            weight_of(list(self.streams_at(stage).values()), self.group.rank, self.group.size)

    def optimizers(self) -> dict[str, Optimizer]:
        modules: dict[str, list[nn.Module]] = {
            "generator": [self.encoder, self.decoder],
            "style_discriminator": [self.critics["style"]],
        }
        if self.transforms:
            modules |= {"transform": [self.transform], "content_discriminator": [self.critics["content"]]}
        c = self.config
        return {
            name: Adam([p for part in parts for p in part.parameters()], lr=c.lr, betas=(c.beta1, c.beta2))
            for name, parts in modules.items()
        }

    def training_step(self, batch: Batch) -> Terms:
        """Updates of the first kind, then those of the second; terms are means over the updates that have them."""
        terms = []
        for n in range(first := self.config.step1_per_cycle):
            photos, artworks = (signed(batch[name][n::first]) for name in ("content", "style"))
            terms.append(self.step1(photos, batch["content_label"][n::first], artworks))
        for n in range(second := self.config.step2_per_cycle if self.transforms else 0):
            photos, artworks = (signed(batch[name][n::second]) for name in ("objects", "artworks"))
            shown = self.get_buffer("objects_places")[batch["objects_label"][n::second]]
            painted = self.get_buffer("style_places")[batch["artworks_label"][n::second]]
            terms.append(self.step2(photos, shown, artworks, painted))
        return means(terms)

    def step1(self, photos: Tensor, scenes: Tensor, artworks: Tensor) -> Terms:
        """Style: D_s or E and D move (or both), T stays."""
        terms: Terms = {}
        discriminator, generator = self.style_gate.movers()
        if discriminator:
            terms |= self.judge_style(photos, scenes, artworks)
        if generator:
            terms |= self.draw_style(photos, scenes)
        return {**terms, "style_gate": self.style_gate.rate.clone()}

    def step2(self, photos: Tensor, shown: Tensor, artworks: Tensor, painted: Tensor) -> Terms:
        """Content: D_c or T move (or both); E, D and D_s stay. shown, painted: classes of photos and artworks."""
        terms: Terms = {}
        discriminator, generator = self.content_gate.movers()
        if discriminator:
            terms |= self.judge_content(photos, shown, artworks, painted)
        if generator:
            terms |= self.transform_content(photos, shown)
        return {**terms, "content_gate": self.content_gate.rate.clone()}

    def judge_style(self, photos: Tensor, scenes: Tensor, artworks: Tensor) -> Terms:
        """An update of D_s. It learns scenes on photos: paintings have no such label."""
        c, window, judge = self.config, self.stage.window, self.critics["style"]
        with torch.no_grad():
            drawn = self.decoder(self.transform(self.encoder(photos, window), window), window)
        real, fake = judge(artworks, window), judge(drawn, window, scenes)
        terms = {"style_discriminator_loss": discriminator_loss(c.adv_form, real, fake)}
        loss = c.w_adv_style * terms["style_discriminator_loss"]
        if c.photo_as_fake or c.conditioning == "ac":
            photo = judge(photos, window)
            if c.photo_as_fake:
                terms["photo_as_fake_loss"] = adversarial_loss(c.adv_form, photo, real=False)
                loss = loss + c.w_adv_style * terms["photo_as_fake_loss"]
            terms |= class_terms("photo_scene", photo, scenes)
            loss = loss + c.w_scene * terms.get("photo_scene_loss", 0.0)
        terms["style_discriminator_gradient"] = self.update(self.gradients(loss, "style_discriminator"))
        terms["style_accuracy"] = accuracy(c.adv_form, real, fake)
        self.settle(self.style_gate, terms["style_accuracy"])
        return terms

    def draw_style(self, photos: Tensor, scenes: Tensor) -> Terms:
        """An update of E and D: x^ must pass for an artwork, still show its scene, and keep the photo's content."""
        c, window = self.config, self.stage.window
        code = self.encoder(photos, window)
        drawn = self.decoder(self.transform(code, window), window)
        verdict = self.critics["style"](drawn, window, scenes)
        terms = {
            "pixel_loss": pooled_loss(drawn, photos, c.pixel_pool),
            "fixpoint_loss": DISTANCES[c.fp_metric](self.encoder(drawn, window), code),
            "style_loss": adversarial_loss(c.adv_form, verdict, real=True),
            **class_terms("scene", verdict, scenes),
        }
        loss = c.w_pxl * terms["pixel_loss"] + c.w_fp * terms["fixpoint_loss"] + c.w_adv_style * terms["style_loss"]
        loss = loss + c.w_scene * terms.get("scene_loss", 0.0)
        terms["generator_gradient"] = self.update(self.gradients(loss, "generator"))
        self.settle(self.style_gate, wins(c.adv_form, verdict, real=False))
        return terms

    def judge_content(self, photos: Tensor, shown: Tensor, artworks: Tensor, painted: Tensor) -> Terms:
        """An update of D_c. It learns classes on artworks."""
        c, window, judge = self.config, self.stage.window, self.critics["content"]
        with torch.no_grad():
            moved, code = self.transform(self.encoder(photos, window), window), self.encoder(artworks, window)
        real, fake = judge(code, window, painted), judge(moved, window, shown)
        terms = {
            "content_discriminator_loss": discriminator_loss(c.adv_form, real, fake),
            **class_terms("artwork", real, painted),
        }
        loss = c.w_adv_cont * terms["content_discriminator_loss"] + c.w_object * terms.get("artwork_loss", 0.0)
        terms["content_discriminator_gradient"] = self.update(self.gradients(loss, "content_discriminator"))
        terms["content_accuracy"] = accuracy(c.adv_form, real, fake)
        self.settle(self.content_gate, terms["content_accuracy"])
        return terms

    def transform_content(self, photos: Tensor, shown: Tensor) -> Terms:
        """An update of T: codes must pass for those of artworks of the same class, and x^ for an artwork.

        D and D_s are not held, only passed through. These photos have no scene, so D_s is not asked for it.
        """
        c, window = self.config, self.stage.window
        with torch.no_grad():
            code = self.encoder(photos, window)
        moved = self.transform(code, window)
        verdict = self.critics["content"](moved, window, shown)
        style = self.critics["style"](self.decoder(moved, window), window)
        terms = {
            "content_loss": adversarial_loss(c.adv_form, verdict, real=True),
            **class_terms("object", verdict, shown),
            "transform_style_loss": adversarial_loss(c.adv_form, style, real=True),
        }
        loss = c.w_adv_cont * terms["content_loss"] + c.w_adv_style * terms["transform_style_loss"]
        loss = loss + c.w_object * terms.get("object_loss", 0.0)
        terms["transform_gradient"] = self.update(self.gradients(loss, "transform"))
        terms["transform_change"] = mse_loss(moved.detach(), code)
        self.settle(self.content_gate, wins(c.adv_form, verdict, real=False))
        return terms

    def settle(self, gate: Gate, wins: Tensor) -> None:
        """Count the wins of all workers' pictures."""
        gate.count(self.group.weighted_sum([wins], self.worker_weight())[0])

    def repaint(self, content: Tensor, strength: float, mask: Sequence[float] = ()) -> Picture:
        """D of E(x) + strength * mask * (T(E(x)) - E(x)), and how much T would change where.

        content: (1, 3, H, W), sides multiples of 16. mask: a square map row by row; none: 1 everywhere.
        """
        window = self.stages[-1].window
        code = self.encoder(signed(content), window)
        moved = self.transform(code, window)
        change = (moved - code).square().mean(1, keepdim=True).sqrt()
        share = stretched(mask, code) if mask else torch.ones_like(change)
        image = self.decoder(torch.lerp(code, moved, strength * share), window)
        return Picture((image + 1) / 2, {"content_change": change / change.max().clamp_min(1e-12)})

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) as the artist would draw it."""
        return self.repaint(content, controls.t_strength, controls.t_mask)

    def preview_streams(self) -> dict[str, Stream]:
        """In the warm-up already the photos of objects, so that all sheets compare."""
        size, load_size = self.stages[-1].size, self.config.load_size
        return {name: Stream(name, count=2, size=size, load_size=load_size) for name in self.needs.datasets}

    def validation_streams(self) -> dict[str, Stream]:
        return {"content": replace(self.preview_streams()["content"], count=4)}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """On the first batch, how results change with the photo."""
        photos = next(iter(batches))["content"]
        drawn = torch.cat([torch.as_tensor(self.repaint(photo[None], 1.0).image) for photo in photos])
        return {"content_variety": variety(drawn, photos)}

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Artworks; every photo, what becomes of it without T, and with T."""
        grid = [(f"style-{n}", image) for n, image in enumerate(batch["style"], start=1)]
        for n, photo in enumerate([*batch["content"], *batch["objects"]], start=1):
            grid.append((f"content-{n}", photo))
            for name, strength in (("without-transformation", 0.0), ("result", 1.0)):
                grid.append((f"{name}-{n}", torch.as_tensor(self.repaint(photo[None], strength).image)[0]))
        return grid

    def onnx_form(self) -> nn.Module:
        return ExplicitForm([self.encoder, self.transform, self.decoder], self.stages[-1].window)


def signed(pictures: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * pictures - 1


def means(parts: Sequence[Terms]) -> Terms:
    """The mean of every term over the parts that have it."""
    names = {name: None for part in parts for name in part}
    return {name: torch.stack([part[name].detach() for part in parts if name in part]).mean() for name in names}


def stages_of(config: TrainConfig) -> list[Stage]:
    """The stages that a training gets to. Raises ValueError for one that cannot be used."""
    if config.progressive is None:
        stages = [Stage(config.content_size, config.batch_size, config.lfn_window, until=0)]
    else:
        limits = {"least_size": MIN_SIZE_PX, "multiple": CODE_PX, "least_window": MIN_WINDOW_PX}
        stages = checked_stages("progressive", config.progressive, **limits)
        stages = stages_until(stages, config.warmup_step1 + config.steps)
    if config.norm == "instance" and min(stage.size for stage in stages) == MIN_SIZE_PX:
        raise ValueError(f"norm: instance norm needs crops of more than {MIN_SIZE_PX} px, D_s sees one position there")
    if 0 < config.load_size < (largest := max(stage.size for stage in stages)):
        raise ValueError(f"load_size: {config.load_size} was given, but crops of {largest} px are wanted; 0 is allowed")
    return stages


METHOD = Method(
    slug="ctb",
    title="Content Transformation Block",
    paper="arXiv:2003.08407",
    tasks={"train": Train},
)
