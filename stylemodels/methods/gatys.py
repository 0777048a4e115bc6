"""A neural algorithm of artistic style, Gatys, Ecker & Bethge 2016 (CVPR; arXiv:1508.06576).

Nothing is trained: the picture itself is what the optimiser moves, until a fixed encoder sees the photo's content and
the painting's style in it.

    L(x) = content_weight * Lc + style_weight * Ls + tv_weight * Ltv        equation 7
    Lc = mean (F(x) - F(c))^2 at conv4_2                                    equation 1
    Ls = sum over taps of mean (G(x) - sum of w_k G(s_k))^2                 equations 3 to 5

Sums of squares are means here, and a Gram matrix is divided by its size, so the weights hold at every size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer

from stylemodels.encoders import Encoder, EncoderName, stand_in
from stylemodels.features import gram
from stylemodels.losses import content_loss, gram_loss, tv_loss
from stylemodels.method import Given, Method, Needs, Picture, Style, Task
from stylemodels.settings import setting

CONTENT_TAP = "conv4_2"
STYLE_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
MIN_SIDE_PX = 32  # relu5_1 needs two positions a side


class Balance(NamedTuple):
    """Weights that suit an encoder's features beside a content weight of 1."""

    style: float
    tv: float


# A Gram term grows with the fourth power of an encoder's features, a content term with the second. Plain VGG's are the
# usual ones of these means (fast neural style's 1e5 to 1e10); the others were found by looking, with the small encoder.
PLAIN_VGG = Balance(style=1e5, tv=0.0)
OTHERS = Balance(style=1e4, tv=50.0)
RANGE_SHARE = 0.01  # of the style's weight: what pulls the picture back into [0, 1]


@dataclass(frozen=True, kw_only=True)
class OptimiseConfig:
    """What a model of `gatys/optimise` is made of."""

    encoder: EncoderName = setting("vgg19", "the fixed encoder that measures content and style")


@dataclass(frozen=True, kw_only=True)
class StylizeControls:
    """How a picture is optimised."""

    steps: int = setting(300, "evaluations of the loss; L-BFGS ends with a whole line search", ge=0, le=20_000)
    optimizer: Literal["lbfgs", "adam"] = setting("lbfgs", "what moves the picture; the paper's is lbfgs")
    lr: float | None = setting(None, "step size; null: 1 with lbfgs, 0.02 with adam", gt=0)
    content_weight: float = setting(1.0, "weight of the content term", ge=0)
    style_weight: float | None = setting(None, "weight of the style term; null: what suits the encoder", ge=0)
    tv_weight: float | None = setting(
        None, "weight of the total variation: smooths; null: what suits the encoder", ge=0
    )
    init: Literal["content", "noise"] = setting("content", "where the picture starts")
    seed: int = setting(0, "of the noise", ge=0)


class Target:
    """What a picture is compared with: the features of one photo, the Gram matrices of a mixture of paintings."""

    def __init__(self, encoder: Encoder, content: Tensor, styles: Sequence[Style]) -> None:
        """content: (1, 3, H, W) in [0, 1], sides from 32 px; each style as well. Raises ValueError for smaller ones."""
        for name, image in (("content", content), *(("style", style.image) for style in styles)):
            height, width = image.shape[-2:]
            if min(height, width) < MIN_SIDE_PX:
                raise ValueError(f"{name}: {width} x {height} px were given, sides must be at least {MIN_SIDE_PX} px")
        self.encoder = encoder
        self.content_tap, self.style_taps = taps_of(encoder.name)
        self.taps = tuple(dict.fromkeys((*self.style_taps, self.content_tap)))
        with torch.no_grad():
            self.content: Tensor = encoder(content, [self.content_tap])[self.content_tap]
            each = [(style.weight, encoder(style.image, self.style_taps)) for style in styles]
            self.grams = {
                tap: torch.stack([weight * gram(features[tap]) for weight, features in each]).sum(0)
                for tap in self.style_taps
            }

    def losses(self, picture: Tensor) -> dict[str, Tensor]:
        """Lc and Ls of `picture` (1, 3, H, W), as large as the content; not weighted, with gradients."""
        features = self.encoder(picture, self.taps)
        return {
            "content_loss": content_loss(features[self.content_tap], self.content),
            "style_loss": gram_loss(features, self.grams),
        }


class Optimise(Task):
    """Draws by optimising the picture. Images are RGB in [0, 1]."""

    Config = OptimiseConfig
    Controls = StylizeControls
    needs = Needs(datasets={})
    stretches = ()
    model_parts = ()
    styles = (1, 8)
    multiple = 1
    takes_init = True
    trains = False

    def __init__(self, config: OptimiseConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.encoder = given.encoder

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W) towards the mixture of `styles`, from 32 px each.

        Its maps are the history of the weighted terms, by name: `content_loss`, `style_loss`, `tv_loss`, `range_loss`.
        """
        start = self.init_image
        picture, history = optimised(self.encoder, content, styles, controls, start=start, report=self.report)
        return Picture(picture, history)

    def onnx_form(self) -> str:
        return "it optimises the picture itself: hundreds of gradient steps, not one pass through a network"

    def model_facts(self) -> dict[str, Any]:
        content_tap, style_taps = taps_of(self.config.encoder)
        return {"taps": {"content": content_tap, "style": list(style_taps)}}


def optimised(
    encoder: Encoder,
    content: Tensor,
    styles: Sequence[Style],
    controls: StylizeControls,
    *,
    start: Tensor | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The picture (1, 3, H, W) in [0, 1], and each weighted term at every evaluation and of the result, 1-D.

    start: where it begins, instead of at what `controls.init` says. report: told how much is done after every
    evaluation. Works under `no_grad` and `inference_mode`.
    """
    # Gradients are needed whatever the caller does, and a tensor of inference mode can never have one.
    with torch.inference_mode(False), torch.enable_grad():
        content = content.clone()
        target = Target(encoder, content, [Style(style.image.clone(), style.weight) for style in styles])
        picture = (first_picture(content, controls) if start is None else start.clone()).requires_grad_()
        weights = weights_of(encoder, controls)
        optimizer = optimizer_of(picture, controls)
        history: list[Tensor] = []

        def weighted(picture: Tensor) -> Tensor:
            terms = target.losses(picture) | {"tv_loss": tv_loss(picture), "range_loss": range_loss(picture)}
            values = torch.stack([weights[name] * terms[name] for name in weights])
            history.append(values.detach())
            return values.sum()

        def closure() -> float:
            optimizer.zero_grad()
            # A sum, as in the paper: L-BFGS takes the tiny slopes of a mean for none.
            loss = weighted(picture) * picture.numel()
            loss.backward()  # type: ignore[no-untyped-call]
            report(min(1.0, len(history) / controls.steps))
            return float(loss.detach())

        while len(history) < controls.steps:
            optimizer.step(closure)
        result = picture.detach().clamp(0, 1)
        weighted(result)
        curves = torch.stack(history).float().cpu()
        return result, {name: curves[:, n] for n, name in enumerate(weights)}


@torch.no_grad()
def losses_of(encoder: Encoder, picture: Tensor, content: Tensor, styles: Sequence[Style]) -> dict[str, float]:
    """Lc and Ls of a picture that any method drew, not weighted: what a comparison prints beside its own figures."""
    return {name: float(value) for name, value in Target(encoder, content, styles).losses(picture).items()}


def taps_of(encoder: EncoderName) -> tuple[str, tuple[str, ...]]:
    """The content tap and the style taps, or what stands in for them with this encoder."""
    return stand_in(encoder, CONTENT_TAP, "content"), tuple(stand_in(encoder, tap, "style") for tap in STYLE_TAPS)


def weights_of(encoder: Encoder, controls: StylizeControls) -> dict[str, float]:
    """The weight of each term."""
    balance = PLAIN_VGG if encoder.name in ("vgg19", "vgg16") else OTHERS
    style = balance.style if controls.style_weight is None else controls.style_weight
    return {
        "content_loss": controls.content_weight,
        "style_loss": style,
        "tv_loss": balance.tv if controls.tv_weight is None else controls.tv_weight,
        "range_loss": RANGE_SHARE * style,
    }


def range_loss(picture: Tensor) -> Tensor:
    """Mean squared distance to [0, 1]. Ours: the clamp at the end would undo what the painting's colours took.

    Without it the style term grew eightfold in the clamp (measured: small encoder, 128 px, 60 steps), with it by a
    quarter.
    """
    return (picture - picture.detach().clamp(0, 1)).square().mean()


def first_picture(content: Tensor, controls: StylizeControls) -> Tensor:
    if controls.init == "content":
        return content.clone()
    random = torch.Generator().manual_seed(controls.seed)
    return torch.rand(content.shape, generator=random, dtype=content.dtype).to(content.device)


def optimizer_of(picture: Tensor, controls: StylizeControls) -> Optimizer:
    """Adam evaluates once a call, L-BFGS as often as it may in all: between calls it would evaluate twice."""
    if controls.optimizer == "adam":
        return Adam([picture], lr=controls.lr or 0.02)
    budget = max(1, controls.steps)
    return LBFGS(
        [picture],
        lr=controls.lr or 1.0,
        max_iter=budget,
        max_eval=budget,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",  # without it the loss leaps up to 200 times now and then (measured)
    )


METHOD = Method(
    slug="gatys",
    title="A Neural Algorithm of Artistic Style",
    paper="arXiv:1508.06576",
    tasks={"optimise": Optimise},
)
