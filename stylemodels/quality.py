"""How near a picture is to the content and to the style: our own small measures, on any encoder.

All are relative, so that they compare between encoders and pictures. What a published measure has that needs weights
of its own (LPIPS's linear layers, FID's Inception) is left out, and the measure named as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import torch
from torch import Tensor, cdist
from torch.nn.functional import conv2d, mse_loss, normalize

from stylemodels.encoders import Encoder
from stylemodels.features import gram, mean_std
from stylemodels.images import resize, scaled_to_shorter
from stylemodels.method import Style
from stylemodels.methods import gatys
from stylemodels.prepare import Size, check_in_memory
from stylemodels.stylize import Model

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_TAP = "relu4_1"
MIN_SIDE_PX = 32  # relu5_1 needs two positions a side
TINY = 1e-12  # where a black picture leaves nothing to divide by
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values in [0, 1]
HISTOGRAM_BINS = 8  # of each colour channel

Features = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One picture against the content and the style that it was drawn from."""

    content_loss: float  # `content_distance`
    style_loss: float  # `gram_distance`
    statistics: float  # `statistics_distance`
    perceptual: float  # `perceptual_distance` from the content
    ssim: float  # with the content
    colour: float  # `histogram_distance` from the style


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    pair: str  # "1", "2", ... or "mean"
    picture: str  # who drew it
    measures: Measures


def content_distance(output: Tensor, content: Tensor) -> Tensor:
    """Mean squared difference of features (1, C, H, W), each channel normalised to mean 0 and std 1, a scalar.

    It is 2 (1 - r) with r the channels' mean correlation: 0 for the same structure, 2 for none in common, whatever the
    style did to mean and std.
    """
    normalised = [(features - mean) / std for features in (output, content) for mean, std in [mean_std(features)]]
    return mse_loss(normalised[0], normalised[1])


def gram_distance(output: Features, style: Features) -> Tensor:
    """Mean over the taps of |G(output) - G(style)|^2 / |G(style)|^2, a scalar; features (1, C, any H, any W)."""
    return torch.stack([relative(gram(output[tap]), gram(style[tap])) for tap in style]).mean()


def statistics_distance(output: Features, style: Features) -> Tensor:
    """The same of each tap's vector of channel means and standard deviations."""
    pairs = [[torch.cat(mean_std(features[tap]), dim=1) for features in (output, style)] for tap in style]
    return torch.stack([relative(own, wanted) for own, wanted in pairs]).mean()


def relative(own: Tensor, wanted: Tensor) -> Tensor:
    return (own - wanted).square().sum() / wanted.square().sum().clamp_min(TINY)


def perceptual_distance(first: Features, second: Features) -> Tensor:
    """LPIPS's form without its learned weights: squared distance of unit feature vectors, a scalar.

    first, second: tap -> (1, C, H, W), the same shapes. Mean over positions, mean over taps; 0 to 2, for ReLU features.
    Source: Zhang et al. 2018 (arXiv:1801.03924), equation 1 with all w = 1.
    """
    terms = [(normalize(first[tap]) - normalize(second[tap])).square().sum(1).mean() for tap in second]
    return torch.stack(terms).mean()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of two pictures (1, 3, H, W) in [0, 1], mean over channels and positions, a scalar.

    Gaussian window of 11 px, sigma 1.5, only where it fits. Raises ValueError for sides below 11 px.
    Source: Wang et al. 2004 (IEEE TIP 13, 600-612), equation 13.
    """
    if min(first.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"ssim: sides of {tuple(first.shape[-2:])} px, at least {SSIM_WINDOW} are needed")
    a, b = first.transpose(0, 1), second.transpose(0, 1)
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    means = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    return (means * (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)).mean()


def blurred(planes: Tensor) -> Tensor:
    """(N, 1, H, W) under the window, (N, 1, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=planes.dtype, device=planes.device) - SSIM_WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    line = line / line.sum()
    return conv2d(conv2d(planes, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))


def histogram_distance(first: Tensor, second: Tensor) -> Tensor:
    """Hellinger distance of the colours of two pictures (1, 3, any H, any W) in [0, 1], a scalar: 0 same, 1 disjoint.

    Colours are counted in 8 x 8 x 8 bins.
    """
    overlap = (colour_histogram(first) * colour_histogram(second)).sqrt().sum()
    return (1 - overlap).clamp_min(0).sqrt()


def colour_histogram(picture: Tensor) -> Tensor:
    """Shares of the 512 colour bins, float64."""
    bins = (picture[0].flatten(1) * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1)
    index = (bins[0] * HISTOGRAM_BINS + bins[1]) * HISTOGRAM_BINS + bins[2]
    counts = torch.bincount(index, minlength=HISTOGRAM_BINS**3).double()
    return counts / counts.sum()


@torch.inference_mode()
def measure(picture: Tensor, content: Tensor, style: Tensor, encoder: Encoder) -> Measures:
    """All measures of `picture` (1, 3, H, W) in [0, 1], as large as `content`; `style` of any size from 32 px.

    Raises ValueError that names the picture which is too small, or of another size than the content.
    """
    for name, image in (("content", content), ("style", style)):
        if min(image.shape[-2:]) < MIN_SIDE_PX:
            raise ValueError(f"{name}: sides of {tuple(image.shape[-2:])} px, at least {MIN_SIDE_PX} are needed")
    if picture.shape != content.shape:
        raise ValueError(f"picture: {tuple(picture.shape)} was given for a content of {tuple(content.shape)}")
    of_picture, of_content, of_style = (encoder(image, TAPS) for image in (picture, content, style))
    return Measures(
        content_loss=float(content_distance(of_picture[CONTENT_TAP], of_content[CONTENT_TAP])),
        style_loss=float(gram_distance(of_picture, of_style)),
        statistics=float(statistics_distance(of_picture, of_style)),
        perceptual=float(perceptual_distance(of_picture, of_content)),
        ssim=float(ssim(picture, content)),
        colour=float(histogram_distance(picture, style)),
    )


def evaluate_model(
    model: Model,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    *,
    encoder: Encoder,
    gatys_steps: int = 0,
    size: int = 256,
) -> list[Row]:
    """Draw every pair and measure it, beside the content itself and, with `gatys_steps`, what Gatys et al. reach.

    contents, styles: (1, 3, H, W) in [0, 1], the n-th of both are a pair. A model that is one style itself draws the
    contents alone and is measured against `styles`. size: shorter side of both, pixels; 0 keeps them.

    Returns the rows of each pair, then the means over all pairs, in the order of who drew.
    Raises ValueError when there is no pair or as many contents as styles there are not, and what drawing raises.
    """
    if not contents or len(contents) != len(styles):
        raise ValueError(
            f"pairs: {len(contents)} contents and {len(styles)} styles were given, as many of both are needed"
        )
    rows = []
    for number, (content, style) in enumerate(zip(contents, styles, strict=True), start=1):
        photo, painting = shorter_side(content, size), shorter_side(style, size)
        shown = [Style(painting)] if model.task.styles[1] else []
        pictures = {"content itself": photo, model.name: model.stylize(photo, shown)}
        if gatys_steps:
            controls = gatys.StylizeControls(steps=gatys_steps)
            pictures[f"gatys, {gatys_steps} steps"], _ = gatys.optimised(encoder, photo, [Style(painting)], controls)
        measured = {who: measure(picture, photo, painting, encoder) for who, picture in pictures.items()}
        rows += [Row(pair=str(number), picture=who, measures=measures) for who, measures in measured.items()]
    return rows + means(rows)


def means(rows: Sequence[Row]) -> list[Row]:
    """A row "mean" for everybody who drew."""
    drawn: dict[str, list[Measures]] = {}
    for row in rows:
        drawn.setdefault(row.picture, []).append(row.measures)
    return [Row(pair="mean", picture=who, measures=mean_of(measures)) for who, measures in drawn.items()]


def mean_of(measures: Sequence[Measures]) -> Measures:
    return Measures(**{f.name: fmean(getattr(each, f.name) for each in measures) for f in fields(Measures)})


def shorter_side(image: Tensor, size: int) -> Tensor:
    """(1, 3, H, W) scaled so that its shorter side is `size`; 0 keeps it. Raises ValueError if that is too large."""
    height, width = image.shape[-2:]
    if size == 0 or min(height, width) == size:
        return image
    width, height = scaled_to_shorter(width, height, size)
    check_in_memory(Size(height, width))
    return resize(image, height, width)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, columns aligned."""
    names = [f.name for f in fields(Measures)]
    cells = [["pair", "picture", *names]]
    for row in rows:
        cells.append([row.pair, row.picture, *(shown(getattr(row.measures, name)) for name in names)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(aligned(line, widths) for line in cells)


def aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, figures to the right."""
    words = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    return "  ".join([*words, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))])


def shown(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def relative_content_distance(drawn: Tensor, drawn_labels: Tensor, artworks: Tensor, labels: Tensor) -> Tensor:
    """RSSCD: how far a drawing is from the nearest real artwork of its content, relative to artworks of other content.

    drawn: (N, F), artworks: (M, F), a vector of features each; labels: (N,) and (M,), int64, what they show.
    Returns a scalar: 0 where every drawing is one of the artworks, about 1 where they are as far as another content is.
    Raises ValueError where a drawing's class has no artwork, or all artworks show the same.
    Source: Kotovenko et al. 2019 (arXiv:2003.08407), relative style-specific content distance.
    """
    same, other = drawn_labels[:, None] == labels, labels[:, None] != labels
    if not same.any(1).all():
        raise ValueError(f"artworks: there is none of class {int(drawn_labels[~same.any(1)][0])}")
    if not other.any():
        raise ValueError("artworks: all show the same, at least two classes are needed")
    # Not by products of vectors, so that equal ones are at distance 0.
    nearest = cdist(drawn, artworks, compute_mode="donot_use_mm_for_euclid_dist").masked_fill(~same, float("inf"))
    return nearest.amin(1).mean() / cdist(artworks, artworks)[other].mean()
