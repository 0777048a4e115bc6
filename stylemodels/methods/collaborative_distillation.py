"""Collaborative Distillation, Wang et al. 2020 (arXiv:2003.08436).

A small encoder SE learns to work with the decoder BD that belongs to a big encoder BE, then gets a small decoder SD:

    bd   L_r = |BD(F) - x|^2 + sum_i |BE_i(BD(F)) - F_i|^2,  F_i = BE_i(x), F = F_k         equation 1
    se   beta * sum_i |Q_i SE_i(x) - F_i|^2 + L_r of BD(Q_k SE_k(x))                        equations 4 to 6
    sd   L_r of SD(SE_k(x))

for every stage k, the networks cut at relu`k`_1. Stages are used from coarse to fine, each whitening and colouring
the features of the picture that the one before has drawn. In the AdaIN form there is stage 4 alone, and L_r becomes
    L_st = |F_st - F_c|^2 + lambda_style * sum_i |G(F_st_i) - G(F_s_i)|^2                   equations 2 and 3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylemodels import cascade, exchange, students
from stylemodels.blocks import MirroredDecoder
from stylemodels.cascade import Pair
from stylemodels.encoders import SMALL_WIDTHS, Encoder, EncoderName
from stylemodels.features import adain, gram
from stylemodels.losses import content_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task, load_exactly
from stylemodels.phases import Stretch
from stylemodels.raster import Raster
from stylemodels.settings import Common, setting
from stylemodels.students import StageEncoder, convolution_of, own_widths
from stylemodels.whitening import EIG_EPS

Scheme = Literal["wct", "adain"]
STEPS = 103_480  # 20 epochs of 82,783 pictures in batches of 16
ALL_STAGES = (5, 4, 3, 2, 1)
ADAIN_STAGE = 4


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """What both tasks can be told; the defaults are the published ones."""

    steps: int = setting(STEPS, "steps of each phase", ge=1, le=10_000_000)
    lambda_pixel: float = setting(1.0, "weight of the pixel term in equation 1", ge=0)
    lambda_perc_decoder: float = setting(0.01, "weight of the perceptual term while the small decoder learns", ge=0)
    lambda_style: float = setting(10.0, "AdaIN: weight of the style term in equation 2", ge=0)
    gram_norm: Literal["hw", "chw"] = setting("hw", "AdaIN: Gram matrices are divided by H*W, or by C*H*W too")
    load_size: int = setting(300, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=16)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, le=1024, multiple_of=16)
    batch_size: int = setting(16, "photos per step, over all workers", ge=1, le=256)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    lr_decay: float = setting(0.0, "the rate is lr / (1 + lr_decay * step), from the start of each phase", ge=0)
    warmup: int = setting(0, "steps at the start of each phase in which the rate rises to lr", ge=0)
    sd_steps: tuple[int, ...] = setting((), "steps of sd for each of `stages`; empty: `steps`", ge=0)
    warm_start: bool = setting(False, "networks start with what the stage before in `stages` has in the same shape")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Settings):
    """Settings of `collaborative-distillation/distill`; the defaults are the published ones."""

    encoder: EncoderName = setting("vgg19-normalised", "the teacher, BE")
    scheme: Scheme = setting("wct", "wct: stages 1 to 5 for whitening and colouring; adain: stage 4 alone")
    stages: tuple[int, ...] = setting(ALL_STAGES, "stages to train, in this order; adain: 4", ge=1, le=5)
    init: Literal["l1_prune", "random", "encoder"] = setting(
        "l1_prune", "SE starts as the teacher's strongest filters, at random, or as encoder small is (widths and Q too)"
    )
    width_div: int = setting(4, "the teacher's widths over this are SE's; half as many again in stage 1", ge=1, le=8)
    collaborator_div: int = setting(1, "BD's inner widths are the teacher's over this; 0: no BD, L_embed alone", ge=0)
    beta: float = setting(10.0, "weight of the embedding terms in equation 6", ge=0)
    lambda_perc: float = setting(1.0, "weight of the perceptual term in equation 1", ge=0)
    final_relu: bool = setting(False, "decoders end in a ReLU, as the published ones; in training it can die")
    bd_steps: tuple[int, ...] = setting((), "steps of bd for each of `stages`; empty: `steps`", ge=0)
    se_steps: tuple[int, ...] = setting((), "steps of se for each of `stages`; empty: `steps`", ge=0)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Settings):
    """Settings of `collaborative-distillation/train-decoder`; the defaults are the published ones."""

    encoder: EncoderName = setting("vgg19-normalised", "what measures; without base, what is decoded", from_base=True)
    scheme: Scheme = setting("wct", "the base's; adain: stage 4 alone", from_base=True)
    stages: tuple[int, ...] = setting(ALL_STAGES, "stages to train, in this order", ge=1, le=5, from_base=True)
    init: Literal["itself", "l1_prune", "random", "encoder"] = setting(
        "itself", "SE is the encoder itself; with a base model, the base's", from_base=True
    )
    width_div: int = setting(4, "the base's", ge=1, le=8, from_base=True)
    final_relu: bool = setting(False, "decoders end in a ReLU; in training it can die", from_base=True)


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 keeps the content's own features, 1 takes the style, at every stage", ge=0, le=1)
    stages: tuple[int, ...] = setting((), "stages to apply, in this order; empty: all, from 5 to 1", ge=1, le=5)
    eig_eps: float = setting(EIG_EPS, "eigenvalues of covariances up to it are dropped", gt=0)
    cov_shrink: float = setting(0.0, "added to the diagonal of the content's covariance: 1 in WCT's own code", ge=0)
    stats: Literal["exact", "thumbnail"] = setting("exact", "by tiles: of the whole picture, or of a thumbnail")
    thumb_size: int = setting(1024, "shorter side of the thumbnail, pixels", ge=64, multiple_of=16)


class Distill(Task):
    """Trains BD, SE with Q, and SD of every stage. Images are RGB in [0, 1].

    The embeddings Q are for training alone: they are in checkpoints and not in the published model.
    """

    Config: ClassVar[type] = DistillConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    stretches: ClassVar[tuple[Stretch, ...]] = (
        Stretch("bd", ("bd_steps", "steps"), each="stages", unless_zero="collaborator_div"),
        Stretch("se", ("se_steps", "steps"), each="stages"),
        Stretch("sd", ("sd_steps", "steps"), each="stages"),
    )
    model_parts = ("encoders", "decoders")
    styles = (1, 8)
    masks = True
    strength = "alpha"
    stylize_encodes = False

    def __init__(self, config: Any, given: Given) -> None:
        super().__init__()
        check_settings(config, given.encoder)
        self.config, self.encoder = config, given.encoder
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for stage in config.stages:
            widths = widths_of(config, self.encoder, stage)
            self.encoders[str(stage)] = StageEncoder(widths)
            self.decoders[str(stage)] = MirroredDecoder(widths[::-1], final_relu=config.final_relu)
        self.embeddings, self.collaborators = nn.ModuleDict(), nn.ModuleDict()
        self.build(given)

    def build(self, given: Given) -> None:
        """What the task has beside encoders and decoders, and how the encoders start."""
        config, teacher = self.config, students.layers_of(self.encoder)
        for stage in config.stages:
            se, wide = self.se(stage), [self.encoder.channels[tap] for tap in taps_up_to(stage)]
            widths = zip(range(1, stage + 1), se.widths, wide, strict=True)
            q = nn.ModuleDict({f"conv{block}1_aux": nn.Conv2d(own, other, 1) for block, own, other in widths})
            self.embeddings[str(stage)] = q
            students.start_at_random(se)
            if teacher is not None and config.init == "l1_prune":
                students.start_encoder_pruned(se, teacher)
            elif teacher is not None and config.init == "encoder":
                for network in (se, q):  # stage 1 has more channels than the small encoder: these stay random
                    students.start_widened(network, teacher)
            if config.collaborator_div:
                inner = [max(width // config.collaborator_div, 1) for width in wide[:-1]]
                bd = MirroredDecoder([wide[-1], *reversed(inner)], final_relu=config.final_relu)
                self.collaborators[str(stage)] = bd

    def se(self, stage: int) -> StageEncoder:
        network = self.encoders[str(stage)]
        assert isinstance(network, StageEncoder)
        return network

    def streams(self) -> dict[str, Stream]:
        c = self.config
        streams = {"content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)}
        if c.scheme == "adain":
            streams["style"] = Stream("style", count=c.batch_size, size=c.style_size, load_size=c.load_size)
        return {name: replace(stream, augment="flip") for name, stream in streams.items()}

    def optimizers(self) -> dict[str, Optimizer]:
        kind, stage = self.phase[:2], int(self.phase[2:])
        if kind == "se":  # conv0 is constant
            layers = [self.se(stage).layer(name) for name in self.se(stage).names]
            learning = [p for layer in (*layers, self.embeddings[str(stage)]) for p in layer.parameters()]
        else:
            networks = self.collaborators if kind == "bd" else self.decoders
            learning = list(networks[str(stage)].parameters())
        return {kind: Adam(learning, lr=self.config.lr)}

    def lr_scale(self, name: str) -> float:
        return float(min((self.step + 1) / max(self.config.warmup, 1), 1) / (1 + self.config.lr_decay * self.step))

    def begin(self, phase: str, step: int) -> None:
        super().begin(phase, step)
        if step == 0:
            self.start(phase[:2], int(phase[2:]))

    def start(self, kind: str, stage: int) -> None:
        """What a network of a new phase takes over from those that are trained by now."""
        place = self.config.stages.index(stage)
        parts = {"bd": ["collaborators"], "se": ["encoders", "embeddings"], "sd": ["decoders"]}[kind]
        if self.config.warm_start and place > 0:
            before = str(self.config.stages[place - 1])
            for networks in (self.get_submodule(part) for part in parts):
                assert isinstance(networks, nn.ModuleDict)
                students.start_where_it_fits(networks[str(stage)], networks[before])
        elif kind == "sd" and self.config.init == "l1_prune" and str(stage) in self.collaborators:
            students.start_decoder_pruned(self.decoders[str(stage)], self.collaborators[str(stage)])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of one batch in the current phase; their sum is minimised, each is plotted."""
        kind, stage = self.phase[:2], int(self.phase[2:])
        taps = taps_up_to(stage)
        pictures = [batch[name] for name in self.streams()]  # content, and style in the AdaIN form
        with torch.no_grad():
            targets: list[dict[str, Tensor]] = [self.encoder(picture, taps) for picture in pictures]
        terms: dict[str, Tensor] = {}
        if kind == "bd":
            decoder, features = self.collaborators[str(stage)], [target[taps[-1]] for target in targets]
        elif kind == "se":
            embedded = [self.embedded(picture, stage) for picture in pictures]
            errors = [sum_of_errors(own, target) for own, target in zip(embedded, targets, strict=True)]
            terms["embed_loss"] = self.config.beta * torch.stack(errors).sum()
            if str(stage) not in self.collaborators:
                return terms
            decoder, features = self.collaborators[str(stage)], [own[taps[-1]] for own in embedded]
        else:
            with torch.no_grad():
                features = [self.se(stage)(picture) for picture in pictures]
            decoder = self.decoders[str(stage)]
        if self.config.scheme == "adain":
            return terms | self.stylisation_terms(decoder(adain(*features)), *targets)
        weight = self.config.lambda_perc_decoder if kind == "sd" else self.config.lambda_perc
        return terms | self.reconstruction_terms(decoder(features[0]), pictures[0], targets[0], weight)

    def embedded(self, pictures: Tensor, stage: int) -> dict[str, Tensor]:
        """Q_i SE_i of `pictures` by the teacher's taps (equation 4)."""
        own = dict(zip(taps_up_to(stage), self.se(stage).features(pictures), strict=True))
        q = self.embeddings[str(stage)]
        return {tap: convolution_of(q, f"conv{tap[4]}1_aux")(features) for tap, features in own.items()}

    def reconstruction_terms(
        self, output: Tensor, photos: Tensor, target: Mapping[str, Tensor], weight: float
    ) -> dict[str, Tensor]:
        """L_r, equation 1."""
        return {
            "pixel_loss": self.config.lambda_pixel * content_loss(output, photos),
            "perceptual_loss": weight * sum_of_errors(self.encoder(output, list(target)), target),
        }

    def stylisation_terms(
        self, output: Tensor, content: Mapping[str, Tensor], style: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """L_st, equation 2."""
        own, last = self.encoder(output, list(style)), f"relu{ADAIN_STAGE}_1"
        # `gram` divides by C*H*W; how the paper normalises G while training is not published
        scales = {tap: features.shape[1] if self.config.gram_norm == "hw" else 1 for tap, features in style.items()}
        errors = [content_loss(gram(own[tap]) * scale, gram(style[tap]) * scale) for tap, scale in scales.items()]
        return {
            "content_loss": content_loss(own[last], content[last]),
            "style_loss": self.config.lambda_style * torch.stack(errors).sum(),
        }

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W), sides multiples of 16, in the mixture of `styles`, each of any size from 32 px."""
        pairs = self.pairs(controls)
        if self.config.scheme == "adain":
            return Picture(exchange.draw(content, styles, pairs[0], alpha=controls.alpha))
        return Picture(cascade.draw(content, styles, pairs, **whitening(controls), report=self.report))

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: Any, *, tile: int
    ) -> None:
        pairs = self.pairs(controls)
        how: dict[str, Any] = {"tile": tile, "report": self.report}
        if self.config.scheme == "adain":
            exchange.draw_tiles(source, target, styles, pairs[0], alpha=controls.alpha, **how)
            return
        how |= {"stats": controls.stats, "thumb_size": controls.thumb_size}
        cascade.draw_tiles(source, target, styles, pairs, **whitening(controls), **how)

    def pairs(self, controls: StylizeControls) -> list[Pair]:
        """The stages to apply. Raises ValueError for one that the model does not have, or that comes twice."""
        there = sorted(self.config.stages, reverse=True)
        if missing := [stage for stage in controls.stages if stage not in there]:
            raise ValueError(f"stages: {missing[0]} was given, this model has {', '.join(map(str, there))}")
        if len(set(controls.stages)) < len(controls.stages):
            raise ValueError(f"stages: {list(controls.stages)} were given, each can be applied once")
        chosen = controls.stages or there
        return [Pair(self.encoders[str(stage)], self.decoders[str(stage)], stage) for stage in chosen]

    def onnx_form(self) -> nn.Module | str:
        if self.config.scheme == "wct":
            return "whitening and colouring need an eigendecomposition, for which ONNX has no operator"
        stage = str(ADAIN_STAGE)
        return exchange.AdaINForm(self.encoders[stage], self.decoders[stage])

    def preview_streams(self) -> dict[str, Stream]:
        style = Stream("style", count=2, size=self.config.style_size, load_size=self.config.load_size)
        return {**super().preview_streams(), "style": style}

    @torch.no_grad()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos, what the phase's networks make of them without a style, and with one by the stages trained so far."""
        kind, stage = self.phase[:2], int(self.phase[2:])
        done = self.config.stages[: self.config.stages.index(stage) + (kind == "sd")]
        controls = StylizeControls(stages=tuple(sorted(done, reverse=True)))
        grid = [(f"style-{m}", style) for m, style in enumerate(batch["style"], start=1)]
        for n, photo in enumerate(batch["content"], start=1):
            grid.append((f"content-{n}", photo))
            if kind == "sd" or str(stage) in self.collaborators:
                grid.append((f"reconstruction-{n}", self.reconstruction(photo[None], kind, stage)[0]))
            for m, style in enumerate(batch["style"] if done else [], start=1):
                picture = self.stylize(photo[None], [Style(style[None])], controls).image
                assert picture is not None
                grid.append((f"result-{n}-{m}", picture[0]))
        return grid

    def reconstruction(self, photos: Tensor, kind: str, stage: int) -> Tensor:
        """A decoder's picture of features that no style has changed."""
        last, sd = f"relu{stage}_1", kind == "sd"
        taps = self.encoder(photos, [last]) if kind == "bd" else {} if sd else self.embedded(photos, stage)
        decoder = (self.decoders if sd else self.collaborators)[str(stage)]
        picture: Tensor = decoder(self.se(stage)(photos) if sd else taps[last])
        return picture


class TrainDecoder(Distill):
    """Trains SD alone: for the encoders of a base model, from its decoders on, or for the encoder itself."""

    stretches = (Stretch("sd", ("sd_steps", "steps"), each="stages"),)
    Config: ClassVar[type] = DecoderConfig
    needs = Needs(
        datasets={"content": "images", "style": "images"},
        base_model="collaborative-distillation/distill",
        base_model_required=False,
    )
    given_parts = ("encoders",)

    def build(self, given: Given) -> None:
        base, own = given.base, students.layers_of(self.encoder)
        if base is not None:
            load_exactly(self.encoders, base.part("encoders"), self.encoders.state_dict())
            load_exactly(self.decoders, base.part("decoders"), self.decoders.state_dict())
        elif own is not None:
            if self.config.init != "itself":
                raise ValueError(f"init: {self.config.init!r} is a base model's, and none was given")
            for stage in self.config.stages:
                students.start_as(self.se(stage), own)


def whitening(controls: StylizeControls) -> dict[str, Any]:
    """The controls of whitening and colouring by the names of `cascade`."""
    return {"alpha": controls.alpha, "eps": controls.eig_eps, "shrink": controls.cov_shrink}


def taps_up_to(stage: int) -> list[str]:
    return [f"relu{block}_1" for block in range(1, stage + 1)]


def widths_of(config: Any, encoder: Encoder, stage: int) -> list[int]:
    """SE's channels at relu1_1 ... relu`stage`_1."""
    if config.init == "itself":
        return list(own_widths(encoder)[:stage])
    teacher = [encoder.channels[tap] for tap in taps_up_to(stage)]
    own = list(SMALL_WIDTHS[:stage]) if config.init == "encoder" else [max(w // config.width_div, 1) for w in teacher]
    return own if stage > 1 else [min(own[0] * 3 // 2, teacher[0])]


def check_settings(config: Any, encoder: Encoder) -> None:
    """Raise ValueError for settings that contradict each other."""
    stages, init = config.stages, config.init
    if not stages or len(set(stages)) < len(stages):
        raise ValueError(f"stages: {list(stages)} were given, allowed are 1 to 5, at least one and each once")
    if config.scheme == "adain" and tuple(stages) != (ADAIN_STAGE,):
        raise ValueError(f"stages: {list(stages)} were given, the AdaIN form has stage {ADAIN_STAGE} alone")
    for name in ("bd_steps", "se_steps", "sd_steps"):
        steps = getattr(config, name, ())
        if steps and len(steps) != len(stages):
            raise ValueError(f"{name}: {len(steps)} numbers were given for {len(stages)} stages, allowed is one each")
    if encoder.name == "vgg16" and init in ("l1_prune", "itself") and max(stages) > 3:
        raise ValueError("encoder: vgg16 has three convolutions in a block where these networks have four")
    if init == "encoder" and encoder.name != "small":
        raise ValueError(f"init: 'encoder' was given with encoder {encoder.name}, only small has Q to start from")
    if init == "l1_prune" and encoder.name == "small":
        raise ValueError("init: 'l1_prune' cannot widen encoder small's narrow layers, allowed are encoder and random")
    for stage in stages if init == "l1_prune" else ():
        if (widths := widths_of(config, encoder, stage)) == list(own_widths(encoder)[:stage]):
            raise ValueError(f"init: 'l1_prune' to the teacher's own widths {widths} is a copy: raise width_div")


def sum_of_errors(own: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Mean squared differences, summed over the taps of `target`."""
    return torch.stack([content_loss(own[tap], features) for tap, features in target.items()]).sum()


METHOD = Method(
    slug="collaborative-distillation",
    title="Collaborative Distillation",
    paper="arXiv:2003.08436",
    tasks={"distill": Distill, "train-decoder": TrainDecoder},
)
