"""MetaStyle, Zhang, Zhu & Zhu 2019 (arXiv:1812.05233).

One small network M, and a start theta from which a few gradient steps lead to any style:

    w_t = w_{t-1} - delta * d/dw l(I_c, I_s, M(I_c; w_{t-1})),  w_0 = theta     inner steps, training photos
    minimise over theta   E_{c,s} l(I_c, I_s, M(I_c; w_{s,T}))                  outer step, validation photos   (7)
    l = content_weight * l_content + style_weight * l_style                     the perceptual loss of Johnson et al.

`train` searches theta. `adapt` goes from theta (or from random weights: Johnson's training) to one style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from stylemodels.blocks import FastStyleNetwork, norm_parameters
from stylemodels.checkpoint import digest_of
from stylemodels.encoders import EncoderName
from stylemodels.images import resize
from stylemodels.method import (
    Batch,
    Given,
    Gradients,
    Method,
    Needs,
    Picture,
    Stream,
    Style,
    Task,
    load_exactly,
)
from stylemodels.perceptual import PerceptualLoss
from stylemodels.settings import Common, setting

Weights = dict[str, Tensor]  # name in M -> fast weight


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Common):
    """Settings of `metastyle/train`; the defaults are the published ones."""

    steps: int = setting(100_000, "outer steps", ge=1, le=1_000_000)
    lr: float = setting(1e-5, "Adam's rate eta of the outer steps", gt=0, small=1e-3)
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's betas", ge=0, lt=1)
    lr_decay: float = setting(2.5e-5, "both rates are r / (1 + lr_decay * step)", ge=0)
    batch_size: int = setting(4, "photos per inner and per query batch", ge=1, le=32)
    meta_batch: int = setting(4, "styles per outer step, over all workers", ge=1, le=64)
    inner_steps: int = setting(1, "T, gradient steps from theta to a style", ge=1, le=10)
    inner_lr: float = setting(1e-5, "delta, rate of the inner gradient descent", gt=0, small=2e-2)
    inner_params: Literal["in", "all"] = setting("in", "what inner steps move: the instance norms, or everything")
    second_order: bool = setting(True, "differentiate through the inner gradient; false: first-order approximation")
    resample_per_style: bool = setting(False, "own photos for every style, instead of shared ones")
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=4)
    style_size: int = setting(256, "side of the style picture, pixels", ge=32, le=1024)
    style_resize: Literal["squash", "crop"] = setting("squash", "style to a square: ignoring its aspect, or cropped")
    val_fraction: float = setting(0.1, "share of photos kept for query batches; 0: shared", ge=0, lt=0.5)
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(1e5, "weight of the style term", ge=0, small=500.0)
    grad_clip: float | None = setting(None, "longest outer gradient, global norm; null: as it is", gt=0)
    encoder: EncoderName = setting("vgg16", "the fixed encoder that measures content and style")
    width: int = setting(32, "channels of the network's first layer", ge=4, le=64)
    res_blocks: int = setting(5, "residual blocks", ge=1, le=9)
    checkpoint_every: int = setting(2000, "steps between checkpoints", ge=1)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(Common):
    """Settings of `metastyle/adapt`; the defaults are the published ones."""

    steps: int = setting(200, "Adam steps; 100 to 200 are usual", ge=0, le=20_000)
    lr: float = setting(1e-3, "Adam's rate; 1e-2 is advised with only_in", gt=0)
    only_in: bool = setting(False, "learn the gains and biases of the instance norms only: a style of 3,200 numbers")
    batch_size: int = setting(4, "photos per step, over all workers", ge=1, le=32)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=4)
    style_size: int = setting(512, "side of the style picture, pixels; smaller makes broader strokes", ge=32, le=2048)
    style_resize: Literal["squash", "crop"] = setting("squash", "style to a square: ignoring its aspect, or cropped")
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float = setting(1e5, "weight of the style term", ge=0, small=500.0)
    encoder: EncoderName = setting("vgg16", "the fixed encoder that measures content and style", from_base=True)
    width: int = setting(32, "channels of the network's first layer", ge=4, le=64, from_base=True)
    res_blocks: int = setting(5, "residual blocks", ge=1, le=9, from_base=True)
    preview_images: int = setting(4, "photos in the preview grid", ge=1, le=16)
    preview_steps: tuple[int, ...] = setting((0, 10, 50, 100, 200), "steps with a preview grid besides", ge=0)
    checkpoint_every: int = setting(100, "steps between checkpoints", ge=1)
    onnx: bool = setting(False, "the adapted model also as model.onnx; takes as long as some twenty steps")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """What an adapted model can be told."""

    strength: float = setting(1.0, "a in theta + a * (w - theta): 0 draws the start's picture, 1 the style", ge=0, le=1)


class Train(Task):
    """Searches theta, the start from which every style is near."""

    Config = TrainConfig
    needs = Needs(datasets={"content": "images", "style": "images"})
    model_parts = ("network",)
    styles = (0, 0)
    multiple = 4
    stylize_encodes = False
    shared_out = "meta_batch"

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.network = FastStyleNetwork(config.width, config.res_blocks)
        self.encoder = given.encoder
        self.loss = PerceptualLoss(self.encoder, content_weight=config.content_weight, style_weight=config.style_weight)

    def streams(self) -> dict[str, Stream]:
        c = self.config
        # Workers share out the styles; all have the same photos, or each style brings its own to its worker.
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.content_size, whole=True)
        if c.resample_per_style:
            photos = replace(photos, count=c.batch_size * c.meta_batch, whole=False, together=c.batch_size)
        if c.val_fraction == 0:
            return {"content": photos, "query": photos, "style": style_stream(c, c.meta_batch)}
        split = replace(photos, validation_share=c.val_fraction)
        return {
            "content": replace(split, part="train"),
            "query": replace(split, part="validation"),
            "style": style_stream(c, c.meta_batch),
        }

    def optimizers(self) -> dict[str, Optimizer]:
        return {"network": Adam(self.network.parameters(), lr=self.config.lr, betas=self.config.betas)}

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        gradients, per_style = self.outer_gradients(batch)
        before = self._query_loss_before(batch)
        norm = self.update(gradients, clip_norm=self.config.grad_clip)
        terms = {name: torch.stack([style[name] for style in per_style]).mean() for name in per_style[0]}
        scale = self.lr_scale("network")
        return {
            **terms,
            "inner_gain": 1 - per_style[0]["total_loss"] / before,
            "grad_norm": norm,
            "lr": torch.tensor(self.config.lr * scale),
            "inner_lr": torch.tensor(self.config.inner_lr * scale),
        }

    def outer_gradients(self, batch: Batch) -> tuple[Gradients, list[dict[str, Tensor]]]:
        """The gradient of the mean loss after the inner steps, over the batch's styles; and each style's terms."""
        content, query = self.loss.content_target(batch["content"]), self.loss.content_target(batch["query"])
        all_grams = self.loss.style_target(batch["style"])
        count = len(batch["style"])
        gradients, per_style = Gradients(), []
        for n in range(count):
            mine = self._photos_of(n)
            grams = {tap: value[n : n + 1] for tap, value in all_grams.items()}
            fast, inner_loss = self.inner_steps(batch["content"][mine], content[mine], grams)
            terms = self.loss(self.draw(batch["query"][mine], fast), query[mine], grams)
            loss = total(terms)
            # The style's graph is freed here: memory does not grow with the number of styles.
            gradients += self.gradients(loss / count)
            named = {"inner_loss": inner_loss, **terms, "total_loss": loss}
            per_style.append({name: value.detach() for name, value in named.items()})
        return gradients, per_style

    def draw(self, photos: Tensor, fast: Weights) -> Tensor:
        """M(photos; fast): what `fast` does not name is theta's own tensor."""
        result: Tensor = functional_call(self.network, fast, (photos,))
        return result

    def inner_steps(
        self, photos: Tensor, content: Tensor, grams: Mapping[str, Tensor], *, second_order: bool | None = None
    ) -> tuple[Weights, Tensor]:
        """w_T of one style, and the loss of the training photos at w_0. theta itself stays as it is.

        The fast weights start as the live parameters, so the outer gradient reaches theta through them.
        """
        create_graph = self.config.second_order if second_order is None else second_order
        rate = self.config.inner_lr * self.lr_scale("network")
        fast: Weights = dict(self._fast_parameters())
        losses = []
        for _ in range(self.config.inner_steps):
            loss = total(self.loss(self.draw(photos, fast), content, grams))
            slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=create_graph)
            fast = {name: w - rate * slope for (name, w), slope in zip(fast.items(), slopes, strict=True)}
            losses.append(loss.detach())
        return fast, losses[0]

    def preview_streams(self) -> dict[str, Stream]:
        """Two photos to adapt to, two to draw, two styles."""
        return {name: replace(stream, count=2) for name, stream in self.streams().items()}

    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos after T inner steps towards each style, beside theta's own pictures ("start")."""
        photos, query, styles = batch["content"], batch["query"], batch["style"]
        with torch.no_grad():
            start = self.network(query)
        grid = [(f"style-{m}", style) for m, style in enumerate(styles, start=1)]
        grid += [(f"content-{n}", photo) for n, photo in enumerate(query, start=1)]
        grid += [(f"start-{n}", picture) for n, picture in enumerate(start, start=1)]
        for m, style in enumerate(styles, start=1):
            grams = self.loss.style_target(style[None])
            fast, _ = self.inner_steps(photos, self.loss.content_target(photos), grams, second_order=False)
            with torch.no_grad():
                results = self.draw(query, fast)
            grid += [(f"result-{n}-{m}", picture) for n, picture in enumerate(results, start=1)]
        return grid

    def onnx_form(self) -> nn.Module:
        return self.network

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        """The style-free picture that theta draws before any adaptation."""
        return Picture(self.network(content))

    def model_facts(self) -> dict[str, Any]:
        return {"taps": self.loss.taps_used()}

    def _fast_parameters(self) -> dict[str, nn.Parameter]:
        if self.config.inner_params == "in":
            return norm_parameters(self.network)
        return dict(self.network.named_parameters())

    def _photos_of(self, style: int) -> slice:
        """Which photos of the batch a style works on: all, unless they are drawn per style."""
        if not self.config.resample_per_style:
            return slice(None)
        return slice(style * self.config.batch_size, (style + 1) * self.config.batch_size)

    @torch.no_grad()
    def _query_loss_before(self, batch: Batch) -> Tensor:
        """l on the query photos at theta, for the first style: what `inner_gain` compares with."""
        photos = batch["query"][self._photos_of(0)]
        grams = self.loss.style_target(batch["style"][:1])
        return total(self.loss(self.network(photos), self.loss.content_target(photos), grams))


class Adapt(Task):
    """Brings theta to one style. Without a base model: Johnson's training from random weights."""

    Config = AdaptConfig
    Controls = StylizeControls
    needs = Needs(
        datasets={"content": "images"}, base_model="metastyle/train", base_model_required=False, style_image=True
    )
    model_parts = ("network",)
    given_parts = ("initial",)
    strength = "strength"
    styles = (0, 0)
    multiple = 4
    stylize_encodes = False

    def __init__(self, config: AdaptConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.network = FastStyleNetwork(config.width, config.res_blocks)
        if given.base is not None:
            load_exactly(self.network, given.base.part("network"), self.network.state_dict())
        self.initial = deepcopy(self.network)  # theta, for `strength`
        self.encoder = given.encoder
        self.loss = PerceptualLoss(self.encoder, content_weight=config.content_weight, style_weight=config.style_weight)
        self.given = given
        for tap in self.loss.style_taps:
            channels = self.encoder.channels[tap]
            self.register_buffer(f"gram_{tap}", torch.zeros(1, channels, channels))

    def streams(self) -> dict[str, Stream]:
        c = self.config
        return {"content": Stream("content", count=c.batch_size, size=c.content_size, load_size=c.content_size)}

    def preview_streams(self) -> dict[str, Stream]:
        return {"content": replace(self.streams()["content"], count=self.config.preview_images)}

    def calibrate(self, batch: Batch) -> None:
        """The style's Gram matrices, once: the style does not change."""
        assert self.given.style_image is not None, "build_task demands one"
        style = squared(self.given.style_image, self.config.style_size, self.config.style_resize)
        for tap, value in self.loss.style_target(style.to(batch["content"].device)).items():
            self.get_buffer(f"gram_{tap}").copy_(value)

    def optimizers(self) -> dict[str, Optimizer]:
        learning = norm_parameters(self.network).values() if self.config.only_in else self.network.parameters()
        return {"network": Adam(learning, lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        photos = batch["content"]
        grams = {tap: self.get_buffer(f"gram_{tap}") for tap in self.loss.style_taps}
        return self.loss(self.network(photos), self.loss.content_target(photos), grams)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self(batch)
        loss = total(terms)
        norm = self.update(self.gradients(loss))
        return {**terms, "total_loss": loss, "grad_norm": norm}

    def onnx_form(self) -> nn.Module:
        return self.network

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) in the model's own style, `controls.strength` of the way from theta."""
        start, end = self.initial.state_dict(), self.network.state_dict()
        # lerp is exact at both ends
        blended = {name: start[name].lerp(end[name], controls.strength) for name in end}
        return Picture(functional_call(self.network, blended, (content,)))

    def model_tensors(self) -> dict[str, Tensor]:
        """The network, and of theta what differs from it: with `only_in`, the instance norms."""
        start, end = self.initial.state_dict(), self.network.state_dict()
        differing = {f"initial.{name}": start[name] for name in end if not torch.equal(start[name], end[name])}
        return {f"network.{name}": value for name, value in end.items()} | differing

    def load_model_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        network = {name: value for name, value in tensors.items() if name.startswith("network.")}
        initial = {name.replace("network.", "initial.", 1): value for name, value in network.items()}
        expected = {name: v for name, v in self.state_dict().items() if name.startswith(("network.", "initial."))}
        load_exactly(self, network | initial | dict(tensors), expected)

    def model_facts(self) -> dict[str, Any]:
        return {"taps": self.loss.taps_used(), "initial_sha256": digest_of(self.initial.state_dict())}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def style_stream(config: TrainConfig, count: int) -> Stream:
    """Style pictures as squares: squashed, or scaled to their shorter side and cropped."""
    if config.style_resize == "squash":
        return Stream("style", count=count, size=config.style_size, squash=True)
    return Stream("style", count=count, size=config.style_size, load_size=config.style_size)


def squared(image: Tensor, size: int, how: Literal["squash", "crop"]) -> Tensor:
    """One picture (1, 3, H, W) as a square of `size`: squashed, or its shorter side scaled and the middle cut out."""
    if how == "squash":
        return resize(image, size, size)
    height, width = image.shape[-2:]
    scaled = resize(image, max(size, round(size * height / width)), max(size, round(size * width / height)))
    top, left = (scaled.shape[-2] - size) // 2, (scaled.shape[-1] - size) // 2
    return scaled[..., top : top + size, left : left + size]


METHOD = Method(
    slug="metastyle",
    title="MetaStyle",
    paper="arXiv:1812.05233",
    tasks={"train": Train, "adapt": Adapt},
)
