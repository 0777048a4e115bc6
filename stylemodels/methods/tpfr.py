"""TPFR: Two-Stage Peer-Regularized Feature Recombination, Svoboda et al. 2020 (arXiv:1906.02913).

A GAN without a perceptual loss. E splits a picture into content and style, T rebuilds both from the style picture's own
positions (`peers.py`), D paints; D~ is a second decoder that only teaches E; C judges beside a picture of the class.

    L_D~ = L_zcont + L_zstyle + L~_idt + L~_zcycle     equations 2 to 6: E and D~ learn
    L_D  = L_gen + L_ztransf + lambda L_idt            equations 7 to 10: T and D learn
    L_C                                                equation 11: C learns

E learns neither from C nor from what D reconstructs, so D cannot have it remember styles. x_i1 and x_i2 are two photos,
x_t1 and x_t2 two paintings of one class; z_i = E(x_i1), z_t = E(x_t2). f[.] of codes is the Huber function, summed over
channels and averaged over positions; of pictures, which are in [-1, 1] here, the mean square. Factors in front of sums
are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad, smooth_l1_loss
from torch.optim import Adam, Optimizer

from stylemodels.collapse import variety
from stylemodels.features import at_least_float32
from stylemodels.gan import relativistic_critic_loss, relativistic_generator_loss
from stylemodels.method import Batch, Given, Gradients, Method, Needs, Picture, Stream, Style, Task
from stylemodels.peer_networks import Critic, Decoder, Encoded, SplitEncoder, start
from stylemodels.peers import Code, Distance, PeerRegularised, Peers
from stylemodels.replay import ReplayPool
from stylemodels.settings import Common, setting

STRIDE = 4  # pixels of a position of the code


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `tpfr/train`; the defaults are the published ones."""

    steps: int = setting(614_400, "training steps", ge=1)
    batch_size: int = setting(2, "pairs of photos and pairs of paintings per step, over all workers", ge=1)
    pairing: Literal["photo_to_class", "all_to_all"] = setting(
        "photo_to_class", "photos with a class of the style dataset; or two of its classes, photos for previews only"
    )
    load_size: int = setting(286, "shorter side before scaling and crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of every crop, photos and paintings, pixels", ge=48, multiple_of=4)
    scale_jitter: float = setting(0.1, "load_size is multiplied by up to 1 more or less than this", ge=0, le=0.5)
    color_jitter: float = setting(0.05, "brightness, contrast, saturation and hue vary by it", ge=0, le=0.5)
    width: int = setting(64, "channels of the first layer of encoder and decoders", ge=8, multiple_of=8)
    ndf: int = setting(64, "channels of the first layer of the critic", ge=8)
    res_blocks: int = setting(6, "residual blocks of the encoder and of each decoder", ge=0)
    global_style: bool = setting(True, "half of the style code is one vector for the picture; false: all of it local")
    knn: int = setting(5, "K: neighbours of a position; at most the positions of a style picture", ge=1)
    distance: Distance = setting("euclidean", "between positions, for the choice of neighbours")
    att_dropout: float = setting(0.2, "dropout of attention scores", ge=0, le=0.9)
    stages: Literal["both", "style_only"] = setting("both", "style_only leaves the content's code as it is")
    self_transfer: Literal["identity", "peer"] = setting(
        "identity", "T(z, z) in equations 2 and 9: z itself, as in the authors' code, or by the layer, which blurs"
    )
    ml_margin: float = setting(1.0, "mu of equation 3: how far apart styles of two classes shall be", gt=0)
    lambda_cont: float = setting(1.0, "of equation 2, the content of what was drawn", ge=0)
    lambda_style: float = setting(1.0, "of equation 3, metric learning of styles", ge=0)
    lambda_idt_aux: float = setting(1.0, "of equation 4, reconstruction by the auxiliary decoder", ge=0)
    lambda_cycle_aux: float = setting(1.0, "of equation 5, the code of that reconstruction", ge=0)
    lambda_gen: float = setting(1.0, "of equation 7, the critic's opinion", ge=0)
    lambda_transf: float = setting(1.0, "of equation 8, the code of the transfer", ge=0)
    lambda_idt: float = setting(25.0, "of equation 9, reconstruction by the main decoder", ge=0)
    lambda_disc: float = setting(1.0, "of equation 11, the critic's own loss", ge=0)
    d_noise: float = setting(0.1, "deviation of the noise on what the critic sees; more of it where it wins", ge=0)
    pool_size: int = setting(50, "earlier pictures of each kind that the critic is shown again; 0 = none", ge=0)
    lr: float = setting(4e-4, "Adam's learning rate, of all networks", gt=0)
    beta1: float = setting(0.5, "Adam's first beta", ge=0, lt=1)
    beta2: float = setting(0.999, "Adam's second beta", ge=0, lt=1)
    decay_start: int = setting(153_600, "steps before the rate begins to fall, linearly to the end", ge=0)
    epoch_steps: int = setting(3_072, "the falling rate changes every so many steps", ge=1)
    knn_chunk_mb: int = setting(256, "memory for the distances of one chunk of positions, MiB", ge=1)


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What a finished model can be told."""

    alpha: float = setting(1.0, "0 decodes the content's own code, 1 the recombined one", ge=0, le=1)
    style_transf: bool = setting(True, "false keeps the content's style code")
    cont_transf: bool = setting(True, "false keeps the content's geometry: only the first stage's result is used")
    references: Literal["pooled", "apart"] = setting(
        "pooled", "several styles: neighbours are looked for in all together, or a code from each, then blended"
    )
    pad: int | None = setting(
        None, "pixels around the content; null: 8 for every 256 of its shorter side", ge=0, le=512, multiple_of=4
    )


def code_loss(output: Tensor, target: Tensor) -> Tensor:
    """f[output - target] of feature maps (N, C, h, w): Huber with beta 1, summed over channels, else a mean."""
    output, target = at_least_float32(output), at_least_float32(target)
    return smooth_l1_loss(output, target, reduction="sum") / (output.numel() / output.shape[1])


def distances(i1: Tensor, i2: Tensor, t1: Tensor, t2: Tensor) -> tuple[Tensor, Tensor]:
    """Of style codes: those of one class, which shall fall, and of two, which shall grow (equation 3).

    In each pair one side learns: x_i2 and x_t2.
    """
    i1, t1 = i1.detach(), t1.detach()
    return (code_loss(t2, t1) + code_loss(i2, i1)) / 2, (code_loss(i2, t1) + code_loss(t2, i1)) / 2


def metric_loss(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """L_zstyle, equation 3."""
    return positive + (margin - negative).clamp(min=0)


class Judged(NamedTuple):
    """Pictures (N, 3, H, W) that the critic compares, each beside the same reference."""

    real: Tensor
    fake: Tensor
    reference: Tensor


class Pass(NamedTuple):
    """One pass forward: pictures, what E saw in them, and what was made of it."""

    x_i1: Tensor
    x_i2: Tensor
    x_t1: Tensor
    x_t2: Tensor
    z_i1: Encoded
    z_i2: Encoded
    z_t1: Encoded
    z_t2: Encoded
    fake: Tensor  # D(T(z_i, z_t))
    rec_i: Tensor  # D(T(z_i, z_i))
    rec_t: Tensor  # D(T(z_t, z_t))
    z_fake: Encoded
    z_rec: Encoded  # of rec_i

    def judged(self) -> Sequence[Judged]:
        """The photo's reconstruction among photos, the transfer among paintings."""
        return Judged(self.x_i1, self.rec_i, self.x_i2), Judged(self.x_t1, self.fake, self.x_t2)


class Train(Task):
    """Trains everything at once, each network by what is its own. Images are RGB in [0, 1], inside in [-1, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "labelled"}, min_per_class=2)
    model_parts = ("encoder", "transfer", "decoder")
    styles = (1, 8)
    masks = True
    multiple = STRIDE
    least_px = 48  # at 32 the global style code sees a single position, which has no variance
    strength = "alpha"
    stylize_encodes = False
    batch_loss = "own"  # the margin is one of means over the batch; noise, batch norms and pools are a worker's own

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config = c = config
        if c.knn > (positions := (c.content_size // STRIDE) ** 2):
            raise ValueError(f"knn: {c.knn} was given, a crop of {c.content_size} px has {positions} positions")
        self.encoder = SplitEncoder(c.width, c.res_blocks, global_style=c.global_style)
        self.transfer = PeerRegularised(
            *self.encoder.sizes,
            knn=c.knn,
            distance=c.distance,
            dropout=c.att_dropout,
            two_stages=c.stages == "both",
            chunk_bytes=c.knn_chunk_mb << 20,
        )
        self.decoder = Decoder(c.width, c.res_blocks)
        self.aux_decoder = Decoder(c.width, c.res_blocks)
        self.critic = Critic(c.ndf, c.d_noise)
        self.pools = nn.ModuleList(ReplayPool(c.pool_size, 9, c.content_size) for _ in range(2))
        start(self)

    def streams(self) -> dict[str, Stream]:
        """x_i1 and x_i2 lie side by side, and so do x_t1 and x_t2; of two classes all four, which then differ."""
        classes = replace(self.pictures("style"), count=2 * self.config.batch_size, per_class=2, balanced=True)
        if self.config.pairing == "all_to_all":
            return {"style": replace(classes, count=2 * classes.count, together=2)}
        return {"content": replace(self.pictures("content"), count=classes.count, together=2), "style": classes}

    def pictures(self, dataset: str) -> Stream:
        c = self.config
        jitter = {"scale_jitter": c.scale_jitter, "color_jitter": c.color_jitter}
        return Stream(dataset, count=c.batch_size, size=c.content_size, load_size=c.load_size, augment="tpfr", **jitter)

    def optimizers(self) -> dict[str, Optimizer]:
        c = self.config
        learning = {
            "aux": [*self.encoder.parameters(), *self.aux_decoder.parameters()],
            "main": [*self.transfer.parameters(), *self.decoder.parameters()],
            "disc": [*self.critic.parameters()],
        }
        return {name: Adam(those, lr=c.lr, betas=(c.beta1, c.beta2)) for name, those in learning.items()}

    def lr_scale(self, name: str) -> float:
        """1, then in stairs of `epoch_steps` linearly towards 0, which would be reached one stair after the last."""
        c: TrainConfig = self.config
        if self.step < c.decay_start:
            return 1.0
        stairs = -(-(c.steps - c.decay_start) // c.epoch_steps)
        return 1.0 - ((self.step - c.decay_start) // c.epoch_steps + 1) / (stairs + 1)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """AUX, MAIN and DISC: all gradients first, for a step changes weights that the others' graphs still need."""
        p = self.passed(batch)
        positive, negative = distances(*(z.code.style for z in (p.z_i1, p.z_i2, p.z_t1, p.z_t2)))
        aux_terms = self.aux_terms(p, positive, negative)
        main_terms = self.main_terms(p)
        aux = self.gradients(sum_of(aux_terms.values()), "aux", retain_graph=True)
        main = self.gradients(sum_of(main_terms.values()), "main")
        disc_terms, scores = self.disc_terms(p)
        disc = self.gradients(sum_of(disc_terms.values()), "disc")
        self.update(aux, main, disc)
        figures = {"positive_distance": positive, "negative_distance": negative}
        rate = torch.tensor(self.config.lr * self.lr_scale("main"))
        return aux_terms | main_terms | disc_terms | figures | scores | self.norms(aux + main + disc) | {"lr": rate}

    def passed(self, batch: Batch) -> Pass:
        """E learns from what it sees in all but x_t1; T and D get their codes without gradient."""
        x_i1, x_i2, x_t1, x_t2 = (2 * images - 1 for images in self.couples(batch))
        z_i1, z_i2, z_t2 = self.encoder(x_i1), self.encoder(x_i2), self.encoder(x_t2)
        with torch.no_grad():
            z_t1 = self.encoder(x_t1)
        z_i, z_t = z_i1.code.detach(), z_t2.code.detach()
        fake = self.decoder(self.transfer(z_i, z_t))
        rec_i, rec_t = self.decoder(self.of_itself(z_i)), self.decoder(self.of_itself(z_t))
        z_fake, z_rec = self.encoder(fake), self.encoder(rec_i)
        return Pass(x_i1, x_i2, x_t1, x_t2, z_i1, z_i2, z_t1, z_t2, fake, rec_i, rec_t, z_fake, z_rec)

    def couples(self, batch: Batch) -> Sequence[Tensor]:
        """x_i1, x_i2, x_t1, x_t2, (N, 3, H, W) each."""
        if self.config.pairing == "all_to_all":  # of two classes the stream always begins with the same one
            return [batch["style"][place::4] for place in ((0, 1, 2, 3) if self.step % 2 == 0 else (2, 3, 0, 1))]
        return [batch[name][place::2] for name in ("content", "style") for place in range(2)]

    def of_itself(self, code: Code) -> Code:
        """T(z, z)."""
        if self.config.self_transfer == "identity":
            return code
        itself: Code = self.transfer(code, code)
        return itself

    def aux_terms(self, p: Pass, positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
        """Equations 2 to 5, weighted."""
        c, own = self.config, p.z_i1.code.content.detach()
        cont = (code_loss(p.z_fake.code.content, own) + code_loss(p.z_rec.code.content, own)) / 2
        rec_i, rec_t = self.aux_decoder(p.z_i1.code), self.aux_decoder(p.z_t2.code)
        z_i, z_t = self.encoder(rec_i), self.encoder(rec_t)
        cycle = [(z_i.code.content, p.z_i1.code.content)]
        cycle += [(z_i.code.style, p.z_i1.code.style), (z_i.middle, p.z_i1.middle)]
        cycle += [(z_t.code.style, p.z_t2.code.style), (z_t.middle, p.z_t2.middle)]
        return {
            "cont_loss": c.lambda_cont * cont,
            "style_loss": c.lambda_style * metric_loss(positive, negative, c.ml_margin),
            "idt_aux_loss": c.lambda_idt_aux * (mse_loss(rec_i, p.x_i1) + mse_loss(rec_t, p.x_t2)) / 2,
            "cycle_aux_loss": c.lambda_cycle_aux * sum_of(code_loss(found, z.detach()) for found, z in cycle) / 5,
        }

    def main_terms(self, p: Pass) -> dict[str, Tensor]:
        """Equations 7 to 9, weighted."""
        c, z_i, z_t = self.config, p.z_i1.code.detach(), p.z_t2.code.detach()
        transf = code_loss(p.z_fake.code.content, z_i.content) + code_loss(p.z_fake.code.style, z_t.style)
        opinions = [self.opinion(judged) for judged in p.judged()]
        return {
            "gen_loss": c.lambda_gen * sum_of(opinions) / 2,
            "transf_loss": c.lambda_transf * transf / 2,
            "idt_loss": c.lambda_idt * (mse_loss(p.rec_i, p.x_i1) + mse_loss(p.rec_t, p.x_t2)) / 2,
        }

    def opinion(self, judged: Judged) -> Tensor:
        """L_gen of one kind of picture, equation 7."""
        with torch.no_grad():
            real = self.critic(judged.real, judged.reference)
        return relativistic_generator_loss(real, self.critic(judged.fake, judged.reference))

    def disc_terms(self, p: Pass) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Equation 11 on what the pools give back, weighted; the critic's mean scores."""
        given = [pool(torch.cat(judged, dim=1)) for pool, judged in zip(self.pools, p.judged(), strict=True)]
        shown = [Judged(*pictures.chunk(3, dim=1)) for pictures in given]
        real = [self.critic(one.real, one.reference) for one in shown]
        fake = [self.critic(one.fake, one.reference) for one in shown]
        losses = [relativistic_critic_loss(*scores) for scores in zip(real, fake, strict=True)]
        scores = {"real_score": torch.stack(real).mean(), "fake_score": torch.stack(fake).mean()}
        return {"disc_loss": self.config.lambda_disc * sum_of(losses) / 2}, scores

    def norms(self, gradients: Gradients) -> dict[str, Tensor]:
        """The norm of each network's gradient."""
        norms = {}
        for name in ("encoder", "aux_decoder", "transfer", "decoder", "critic"):
            own = [p for p in self.get_submodule(name).parameters() if p in gradients.values]
            norms[f"{name}_gradient"] = Gradients({p: gradients.values[p] for p in own}).norm()
        return norms

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the mixture of `styles`, sides from 48 px; else ValueError.

        Pooled styles are scaled by their shares, weight or mask, in the attention of the neighbours that are found.
        maps: `matches`, the styles' colours at the neighbours of every position, a pixel each.
        """
        edge = 8 * (min(content.shape[-2:]) // 256) if controls.pad is None else controls.pad
        if edge >= min(content.shape[-2:]):
            raise ValueError(f"pad: {edge} was given, it must be less than a side of the content")
        own = self.encode(pad(content, [edge] * 4, mode="reflect"))
        wider = [replace(s, mask=None if s.mask is None else pad(s.mask, [edge] * 4, mode="reflect")) for s in styles]
        peers = [Peers(self.encode(style.image), style) for style in wider]
        final, matches = self.transfer.mixture(own, peers, pool=controls.references == "pooled")
        chosen = Code(
            final.content if controls.cont_transf else own.content, final.style if controls.style_transf else own.style
        )
        picture = self.decoder(own.lerp(chosen, controls.alpha)) / 2 + 0.5
        return Picture(cropped(picture, edge), {"matches": cropped(matches, edge // STRIDE)})

    def encode(self, images: Tensor) -> Code:
        """The code of pictures in [0, 1], each side from `least_px` on."""
        height, width = images.shape[-2:]
        if min(height, width) < self.least_px:
            raise ValueError(f"a picture of {width} x {height} pixels, each side must have at least {self.least_px}")
        code: Code = self.encoder(2 * images - 1).code
        return code

    def onnx_form(self) -> nn.Module:
        return WholeForm(self)

    def preview_streams(self) -> dict[str, Stream]:
        """Photos and paintings of several classes, whatever the pairing."""
        photos, paintings = (replace(self.pictures(name), augment="none") for name in ("content", "style"))
        return {
            "content": replace(photos, count=min(photos.count, 2)),
            "style": replace(paintings, count=min(2 * photos.count, 4), balanced=True),
        }

    def validation_streams(self) -> dict[str, Stream]:
        """Two photos, and paintings of two classes."""
        return {name: replace(stream, count=2) for name, stream in self.preview_streams().items()}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """On the first batch, how results change with the photo and with the painting."""
        batch = next(iter(batches))
        own, given = ([self.encode(image[None]) for image in batch[name]] for name in ("content", "style"))
        drawn = torch.stack([torch.cat([self.decoder(self.transfer(z_i, z_t)) for z_t in given]) for z_i in own]) / 2
        by_photo, by_painting = variety(drawn, batch["content"]), variety(drawn.transpose(0, 1), batch["style"])
        return {"content_variety": by_photo, "style_variety": by_painting}

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """The usual grid, and every picture as both decoders give it back: the auxiliary one shows what E knows."""
        grid = super().preview(batch)
        for name in ("content", "style"):
            for n, image in enumerate(batch[name], start=1):
                code = self.encode(image[None])
                grid.append((f"{name}-{n}-main", self.decoder(code)[0] / 2 + 0.5))
                grid.append((f"{name}-{n}-auxiliary", self.aux_decoder(code)[0] / 2 + 0.5))
        return grid


class WholeForm(nn.Module):
    """content, style -> picture; all distances at once take 4 * n * m bytes, 64 MiB for two of 256 px.

    Of two peers that are equally far but for rounding another runtime may choose the other.
    """

    def __init__(self, task: Train) -> None:
        super().__init__()
        self.encoder, self.decoder, self.transfer = task.encoder, task.decoder, deepcopy(task.transfer)
        self.transfer.chunk_bytes = None

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        edge = 8 * (min(content.shape[-2:]) // 256)
        own, given = (self.encoder(2 * image - 1).code for image in (pad(content, [edge] * 4, mode="reflect"), style))
        final, _ = self.transfer.recombined(own, given)
        return cropped(self.decoder(final) / 2 + 0.5, edge)


def sum_of(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def cropped(image: Tensor, edge: int) -> Tensor:
    """Without the outer `edge` pixels."""
    height, width = image.shape[-2:]
    return image[..., edge : height - edge, edge : width - edge]


METHOD = Method(
    slug="tpfr",
    title="Two-Stage Peer-Regularized Feature Recombination",
    paper="arXiv:1906.02913",
    tasks={"train": Train},
)
