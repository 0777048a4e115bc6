"""Multimodal Style Transfer via Graph Cuts, Zhang, Fang, Wang, Wang, Lin, Fu & Yang 2019 (arXiv:1904.04443): MST.

A style is several sub-styles, and each part of the content takes the one that it is most like; one trained decoder D:

    mu_1 ... mu_K = k-means over the positions of F_s = E(style), relu4_1
    D_p(k) = 1 - cos(F_c[p], mu_k),  V(a, b) = lambda [a != b],  labels = argmin of their sum, by alpha-expansion
    F_cs = alpha WCT(content positions of label k, style positions of cluster k) + (1 - alpha) F_c,  for every k
    L = content_weight * Lc + style_weight * Ls                                                    equation 10
    Lc = |E(D(F_cs)) - F_c|,  Ls = distances of channel means and deviations of four taps          equations 11, 12

Norms are squared, as all known code has them and the weight of Ls needs it; `loss_norm: l2` is what the paper prints.
The authors' code differs twice in its cut: the positions are one chain in raster order, and V is lambda |a - b|, with
cluster numbers that mean nothing. `neighbourhood: chain` is that form; the default is the paper's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim import Adam, Optimizer

from stylemodels import tiles
from stylemodels.blocks import MirroredDecoder
from stylemodels.encoders import EncoderName
from stylemodels.features import at_least_float32, mean_std
from stylemodels.losses import content_loss
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.mixing import share_of
from stylemodels.opaque import opaque
from stylemodels.phases import Stretch
from stylemodels.raster import Raster
from stylemodels.settings import Common, setting
from stylemodels.substyles import (
    Grouping,
    SubStyle,
    coloured,
    costs_of,
    count_groups,
    distances,
    mapped,
    maps_of,
    matched,
    recombined,
    rows,
    sub_styles,
)
from stylemodels.tiles import Place
from stylemodels.whitening import Moments

log = logging.getLogger(__name__)

Norm = Literal["squared", "l2"]
Reduction = Literal["sum", "mean"]
Tap = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]

LEVELS = ("relu4_1", "relu3_1", "relu2_1", "relu1_1")  # of the decoder
DEEPEST, BLOCK = LEVELS[0], len(LEVELS)
STD_EPS = 1e-6  # added to the variances of the style term


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Grouping, Common):
    """Settings of `mst/train`; the defaults are those of the authors' code and of the one it is built on."""

    steps: int = setting(160_000, "training steps", ge=1, le=1_000_000)
    warmup_recon_iters: int = setting(0, "steps before them in which D learns to undo E", ge=0, le=1_000_000)
    batch_size: int = setting(8, "content-style pairs per step, over all workers", ge=1, le=64)
    load_size: int = setting(512, "shorter side before the crop, pixels; 0 keeps the picture", ge=0)
    content_size: int = setting(256, "side of the content crop, pixels", ge=32, le=1024, multiple_of=8)
    style_size: int = setting(256, "side of the style crop, pixels", ge=32, le=1024, multiple_of=8)
    lr: float = setting(1e-4, "Adam's learning rate", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's decay rates", ge=0, lt=1)
    lr_decay: float = setting(5e-5, "the rate is lr / (1 + lr_decay * step), in each phase", ge=0)
    content_weight: float = setting(1.0, "weight of the content term, equation 11", ge=0)
    style_weight: float = setting(0.01, "gamma, weight of the style term, equation 12", ge=0)
    style_layers: tuple[Tap, ...] = setting(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), "taps of the style term")
    loss_norm: Norm = setting("squared", "l2: the root of each picture's term, as is printed")
    style_reduction: Reduction = setting("sum", "over the channels of a tap; gamma belongs to sum")
    decoder_final_relu: bool = setting(False, "D ends with a ReLU, as published; a channel can die of it")
    encoder: EncoderName = setting("vgg19-normalised", "the fixed encoder E, which also measures the loss")


@dataclass(frozen=True, kw_only=True)
class StylizeControls(Grouping):
    """What a finished model can be told. Sub-styles are numbered from 1, that of most of the style first."""

    clusters: tuple[int, ...] = setting((), "sub-styles that may be used, by number; none: all", ge=1, le=16)
    cluster_alphas: tuple[float, ...] = setting(
        (), "how much of each sub-style, by number, on top of alpha; those not named: 1", ge=0, le=1
    )


class Train(Task):
    """Trains the decoder D; what gives it features has nothing to learn. Images are RGB in [0, 1]."""

    Config = TrainConfig
    Controls = StylizeControls
    needs = Needs(datasets={"content": "images", "style": "images"})
    stretches = (Stretch("warmup", ("warmup_recon_iters",), unless_zero="warmup_recon_iters"), Stretch("train"))
    model_parts = ("decoder",)
    styles = (1, 8)
    masks = True
    multiple = 8
    strength = "alpha"

    def __init__(self, config: TrainConfig, given: Given) -> None:
        super().__init__()
        if not config.style_layers:
            raise ValueError("style_layers: none was given; a style_weight of 0 switches the term off")
        self.config = config
        self.encoder = given.encoder
        channels = self.encoder.channels
        self.decoder = MirroredDecoder([channels[tap] for tap in LEVELS], final_relu=config.decoder_final_relu)

    def streams(self) -> dict[str, Stream]:
        return {"content": self._pairs()["content"]} if self.phase == "warmup" else self._pairs()

    def preview_streams(self) -> dict[str, Stream]:
        return {name: replace(stream, count=min(stream.count, 3)) for name, stream in self._pairs().items()}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"decoder": Adam(self.decoder.parameters(), lr=self.config.lr, betas=self.config.betas)}

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + float(self.config.lr_decay) * self.step)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Beside the weighted loss terms the mean energy of the labels, before the cut and after."""
        if self.phase == "warmup":
            return super().training_step(batch)
        terms, energies = self.transfer(batch)
        self.update(self.gradients(torch.stack(list(terms.values())).sum()))
        before, after = energies.mean(0)
        return {**terms, "energy_before": before, "energy_after": after}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of the phase."""
        return self.reconstruction_terms(batch["content"]) if self.phase == "warmup" else self.transfer(batch)[0]

    def transfer(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Equations 10 to 12, of D(F_cs), and the energies of `targets`."""
        c = self.config
        taps = list(dict.fromkeys((*c.style_layers, DEEPEST)))
        with torch.no_grad():
            content, style = self.encode(batch["content"]), self.encoder(batch["style"], taps)
        features, energies = self.targets(content, style[DEEPEST])
        output = self.encoder(self.decoder(features), taps)
        terms = {
            "content_loss": c.content_weight * content_term(output[DEEPEST], content, c),
            "style_loss": c.style_weight * style_term(output, style, c),
        }
        return terms, energies

    def targets(self, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """F_cs of every pair of features at relu4_1, and its labels' energies before and after the cut, (N, 2).

        Constants: no gradient crosses clusters, cuts and eigendecompositions.
        """

        def pair_by_pair() -> list[Tensor]:
            found = [
                recombined(own[None], sub_styles([rows(painted[None])], self.config), (), self.config)
                for own, painted in zip(content, style, strict=True)
            ]
            energies = [(one.energies[0], one.energies[-1]) for one in found]
            return [torch.cat([one.features for one in found]), content.new_tensor(energies, dtype=torch.float32)]

        like = [at_least_float32(content), content.new_empty(len(content), 2, dtype=torch.float32)]
        features, energies = opaque(pair_by_pair, like=like)
        return features, energies

    def reconstruction_terms(self, photos: Tensor) -> dict[str, Tensor]:
        """How far D(E(photos)) is from photos, in pixels and in features."""
        with torch.no_grad():
            features = self.encode(photos)
        output = self.decoder(features)
        return {
            "pixel_loss": content_loss(output, photos),
            "content_loss": self.config.content_weight * content_term(self.encode(output), features, self.config),
        }

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> relu4_1, (N, C, H // 8, W // 8)."""
        features: dict[str, Tensor] = self.encoder(images, [DEEPEST])
        return features[DEEPEST]

    def sub_styles_of(self, styles: Sequence[Style], controls: StylizeControls) -> list[SubStyle]:
        """Clusters over the positions of all styles together; with masks, of each style for itself."""
        features = [rows(self.encode(style.image)) for style in styles]
        if styles[0].mask is None:
            features = [torch.cat(weighed(features, [style.weight for style in styles]))]
        found = sub_styles(features, controls, chosen=controls.clusters, alphas=controls.cluster_alphas)
        asked = len(features) * (len(set(controls.clusters)) or controls.n_clusters)
        if len(found) < asked:
            log.warning("styles: %d sub-styles instead of %d, there are no more different features", len(found), asked)
        return found

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: StylizeControls) -> Picture:
        """`content` (1, 3, H, W), each part in one of the sub-styles of `styles`, which are of any size from 16 px.

        Maps, each as large as the features: `labels`, a colour for each sub-style; `nearest`, the same without the cut;
        `distance`, the cosine distance of every position to its sub-style. Series: `sizes`, the share of the positions
        that each sub-style has, by number; `energies`, of `nearest` and after each cycle of the cut.
        """
        return self._drawn(content, self.sub_styles_of(styles, controls), styles, controls)

    @torch.inference_mode()
    def stylize_video(
        self, frames: Iterator[Tensor], styles: Sequence[Style], controls: StylizeControls
    ) -> Iterator[Picture]:
        subs = self.sub_styles_of(styles, controls)
        for frame in frames:
            yield self._drawn(frame, subs, styles, controls)

    def _drawn(self, content: Tensor, subs: Sequence[SubStyle], styles: Sequence[Style], s: Grouping) -> Picture:
        features = self.encode(content)
        found = recombined(features, subs, shares_of(styles, features), s)
        to_each = distances(features, subs).to(features)
        sizes = found.labels.flatten().bincount(minlength=len(subs)).cpu()
        maps = {
            "labels": coloured(found.labels, len(subs)),
            "nearest": coloured(found.costs.argmin(0).to(features.device), len(subs)),
            "distance": to_each.gather(0, found.labels[None])[None].clamp(0, 1),
            "sizes": sizes / found.labels.numel(),
            "energies": torch.tensor(found.energies),
        }
        return Picture(self.decoder(found.features), maps)

    @torch.inference_mode()
    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: StylizeControls, *, tile: int
    ) -> None:
        """The cut alone has the whole picture in memory: about 400 bytes a position of relu4_1, 6 a pixel."""
        device = next(self.decoder.parameters()).device  # tiles come from files
        level = tiles.level_of(lambda x: self.encode(x.to(device)), lambda f: self.decoder(f.to(device)), BLOCK)
        subs = self.sub_styles_of(styles, controls)
        with TemporaryDirectory(dir=target.path.parent, prefix=f"{target.path.name}.") as folder:
            kept = tiles.room_for_features(source, level, Path(folder) / "features")
            costs = torch.empty(len(subs), kept.height, kept.width, dtype=torch.float64)
            places = list(tiles.cells_of(source, level, tile))
            for done, (place, features) in enumerate(tiles.feature_tiles(source, level, tile=tile), start=1):
                kept.write(place.top, place.left, features)
                shares = shares_of(cropped(styles, place.scaled(level.cell)), features)
                place.of(costs).copy_(costs_of(features, subs, shares, controls))
                self.report(0.4 * done / len(places))
            labels = torch.from_numpy(matched(costs, controls).labels).view(costs.shape[1:]).to(device)
            groups = [Moments() for _ in subs]
            for place in places:
                count_groups(groups, kept.read(*place).to(device), place.of(labels))
            maps = maps_of(groups, subs, controls)

            def change(features: Tensor, place: Place) -> Tensor:
                return mapped(features.to(device), place.of(labels), maps)

            def report(share: float) -> None:
                self.report(0.5 + 0.5 * share)

            tiles.draw(source, target, level, change, tile=tile, kept=kept, report=report)

    def onnx_form(self) -> nn.Module | str:
        return "the labels are a minimal cut of a graph, found by an algorithm for which ONNX has no operator"

    @torch.inference_mode()
    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """Photos, each in every style as in training, and which part took which sub-style."""
        controls = StylizeControls(**{field.name: getattr(self.config, field.name) for field in fields(Grouping)})
        grid = [(f"style-{n}", style) for n, style in enumerate(batch["style"], start=1)]
        for n, content in enumerate(batch["content"], start=1):
            grid.append((f"content-{n}", content))
            for m, style in enumerate(batch["style"], start=1):
                picture = self.stylize(content[None], [Style(style[None])], controls)
                assert picture.image is not None
                labels = interpolate(picture.maps["labels"], size=content.shape[-2:])
                grid += [(f"result-{n}-{m}", picture.image[0]), (f"labels-{n}-{m}", labels[0])]
        return grid

    def _pairs(self) -> dict[str, Stream]:
        c = self.config
        photos = Stream("content", count=c.batch_size, size=c.content_size, load_size=c.load_size)
        return {"content": photos, "style": replace(photos, dataset="style", size=c.style_size)}


def content_term(output: Tensor, content: Tensor, c: TrainConfig) -> Tensor:
    """Lc, equation 11: the target is the content's own feature, not the transformed one as in AdaIN's paper."""
    return distance(output - content, c.loss_norm, "mean")


def style_term(output: Mapping[str, Tensor], style: Mapping[str, Tensor], c: TrainConfig) -> Tensor:
    """Ls, equation 12: distances of channel means and standard deviations, summed over the taps."""
    terms = []
    for tap in c.style_layers:
        statistics = zip(mean_std(output[tap], STD_EPS), mean_std(style[tap], STD_EPS), strict=True)
        terms += [distance(own - painted, c.loss_norm, c.style_reduction) for own, painted in statistics]
    return torch.stack(terms).sum()


def distance(difference: Tensor, norm: Norm, reduction: Reduction) -> Tensor:
    """Squares of each picture's values in sum or mean, or the root of that, as a mean over the batch: a scalar."""
    # of a vector of zeros this norm has the gradient 0, a square root has none
    norms = torch.linalg.vector_norm(at_least_float32(difference).flatten(1), dim=1)
    if reduction == "mean":
        norms = norms / difference[0].numel() ** 0.5
    term: Tensor = (norms.square() if norm == "squared" else norms).mean()
    return term


def weighed(pools: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """The positions (P, C) that each style brings: all of the weightiest, of others as large a part, drawn evenly."""
    random = torch.Generator().manual_seed(0)
    most, parts = max(weights), []
    for pool, weight in zip(pools, weights, strict=True):
        drawn = torch.randperm(len(pool), generator=random)[: round(len(pool) * weight / most)]
        parts.append(pool[drawn.sort().values.to(pool.device)])
    return parts


def shares_of(styles: Sequence[Style], features: Tensor) -> list[Tensor]:
    """What masks give each style at the positions of `features`, (1, 1, h, w); without masks nothing."""
    shares = [share_of(style, features) for style in styles]
    return [share for share in shares if isinstance(share, Tensor)]


def cropped(styles: Sequence[Style], place: Place) -> list[Style]:
    """Styles with their masks at a rectangle of the content."""
    return [style if style.mask is None else replace(style, mask=place.of(style.mask)) for style in styles]


METHOD = Method(
    slug="mst",
    title="Multimodal Style Transfer via Graph Cuts",
    paper="arXiv:1904.04443",
    tasks={"train": Train},
)
