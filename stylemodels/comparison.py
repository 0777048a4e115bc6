"""Several finished models on the same pictures: what each draws, how near that is to both, and what it costs.

All are drawn one after the other by this process on one device, so that seconds and memory compare. Losses are those of
`quality.py`, on one encoder for all of them, whatever each was trained with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylemodels.encoders import Encoder
from stylemodels.images import resize
from stylemodels.memory import peak
from stylemodels.method import Style
from stylemodels.quality import MIN_SIDE_PX, TAPS, content_distance, gram_distance, shorter_side
from stylemodels.sheet import Cell
from stylemodels.stylize import Model

CONTENT_TAP = "relu4_1"
MOST_PX = 1 << 21  # of a style, and of what is measured: an encoder holds more than a thousand bytes for each pixel


@dataclass(frozen=True)
class Contestant:
    """A model that takes part. note: what people should know of it, as how long it was trained."""

    name: str
    model: Model
    controls: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class Named(NamedTuple):
    """A picture that is given, and what it is called on the sheet."""

    name: str
    picture: Tensor  # (1, 3, H, W) in [0, 1]


class Drawn(NamedTuple):
    """One picture of a comparison; `content` and `style` are places in their lists."""

    contestant: str
    content: int
    style: int
    picture: Tensor  # (1, 3, H, W) in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contestant in figures: means over all pairs of a content and a style."""

    name: str
    method: str  # and task
    note: str
    content_loss: float  # `quality.content_distance`
    style_loss: float  # `quality.gram_distance`
    seconds: float  # of a picture
    mpx_per_s: float
    peak_mib: float | None  # beyond what the process held before; None where the system does not tell
    parameters: int
    styles: str  # how many styles one model has


def compare(
    contestants: Sequence[Contestant],
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    *,
    encoder: Encoder,
    size: int = 0,
    drew: Callable[[Drawn], None] = lambda drawn: None,
    report: Callable[[float], None] = lambda share: None,
) -> list[Line]:
    """Every contestant draws every content in every style; a model that is one style itself draws the contents alone.

    contents, styles: (1, 3, H, W) in [0, 1]; styles of more than MOST_PX are scaled down to it. size: shorter side of
    the contents, pixels; 0 keeps them. drew: is given each picture as soon as it is there. report: told how much is
    done, 0 to 1, also while a picture is drawn.

    Raises ValueError that names a picture or a contestant.
    """
    photos = [shorter_side(content, size) for content in contents]
    paintings = [bounded(style) for style in styles]
    check(contestants, photos, paintings)
    lines = []
    for place, contestant in enumerate(contestants):

        def shares(share: float, place: int = place) -> None:
            report((place + share) / len(contestants))

        lines.append(_line(contestant, photos, paintings, encoder, drew, shares))
    return lines


def check(contestants: Sequence[Contestant], contents: Sequence[Tensor], styles: Sequence[Tensor]) -> None:
    """Raises ValueError for nobody, nothing, two of one name, and pictures that cannot be measured."""
    if not contestants:
        raise ValueError("models: none was given")
    names = [contestant.name for contestant in contestants]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"models: {doubles[0]!r} takes part twice; give one of them another name")
    for kind, pictures in (("content", contents), ("style", styles)):
        if not pictures:
            raise ValueError(f"{kind}: no picture was given")
        for number, picture in enumerate(pictures, start=1):
            if min(picture.shape[-2:]) < MIN_SIDE_PX:
                sides = f"{picture.shape[-1]} x {picture.shape[-2]} px"
                raise ValueError(f"{kind} {number}: {sides}, sides of at least {MIN_SIDE_PX} are needed")


def _line(
    contestant: Contestant,
    photos: Sequence[Tensor],
    styles: Sequence[Tensor],
    encoder: Encoder,
    drew: Callable[[Drawn], None],
    report: Callable[[float], None],
) -> Line:
    model = contestant.model
    is_style = model.task.styles[1] == 0
    shown: list[list[Style]] = [[]] if is_style else [[Style(style)] for style in styles]
    seconds, megapixels, peaks, losses = [], [], [], []
    for n, photo in enumerate(photos):
        for m, chosen in enumerate(shown):

            def shares(share: float, done: int = n * len(shown) + m) -> None:
                report((done + share) / (len(photos) * len(shown)))

            began = time.perf_counter()
            try:
                with peak(photo.device) as memory:
                    picture = model.stylize(photo, chosen, contestant.controls, report=shares)
            except ValueError as error:
                raise ValueError(f"{contestant.name}: {error}") from error
            seconds.append(time.perf_counter() - began)
            if not picture.isfinite().all():
                raise ValueError(f"{contestant.name}: it drew values that are not numbers")
            megapixels.append(picture.shape[-1] * picture.shape[-2] / 1e6)
            peaks.append(memory.mib)
            for place in range(len(styles)) if is_style else [m]:
                drew(Drawn(contestant.name, n, place, picture))
                losses.append(distances(picture, photo, styles[place], encoder))
    known = [mib for mib in peaks if mib is not None]
    return Line(
        name=contestant.name,
        method=model.name,
        note=contestant.note,
        content_loss=fmean(content for content, _ in losses),
        style_loss=fmean(style for _, style in losses),
        seconds=fmean(seconds),
        mpx_per_s=sum(megapixels) / sum(seconds),
        peak_mib=max(known) if known else None,
        parameters=sum(tensor.numel() for tensor in model.task.model_tensors().values()),
        styles=styles_of(model),
    )


def blocks(
    contents: Sequence[Named], styles: Sequence[Named], drawn: Sequence[Drawn], notes: Mapping[str, str]
) -> list[list[Cell]]:
    """Of a contact sheet: one for each pair, both pictures and then what everybody made of them.

    notes: by contestant.
    """
    return [
        [Cell(content.picture, "content", content.name), Cell(style.picture, "style", style.name)]
        + [
            Cell(one.picture, one.contestant, notes[one.contestant])
            for one in drawn
            if (one.content, one.style) == (n, m)
        ]
        for n, content in enumerate(contents)
        for m, style in enumerate(styles)
    ]


@torch.inference_mode()
def distances(picture: Tensor, content: Tensor, style: Tensor, encoder: Encoder) -> tuple[float, float]:
    """Content and style distance (`quality.py`). A picture of another size is measured against the content at its.

    Pictures of more than MOST_PX are measured at it.
    """
    if picture.shape != content.shape:
        content = shorter_side(content, min(picture.shape[-2:]))
    of_picture, of_content, of_style = (encoder(bounded(image), TAPS) for image in (picture, content, style))
    return (
        float(content_distance(of_picture[CONTENT_TAP], of_content[CONTENT_TAP])),
        float(gram_distance(of_picture, of_style)),
    )


def bounded(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] scaled down to MOST_PX if it has more, in its proportions."""
    height, width = image.shape[-2:]
    if height * width <= MOST_PX:
        return image
    scale = (MOST_PX / (height * width)) ** 0.5
    return resize(image, int(scale * height), int(scale * width))


def styles_of(model: Model) -> str:
    """How many styles a finished model has, as the tables of papers say it."""
    return "1" if model.task.styles[1] == 0 else "any"


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in lines]


COLUMNS = ("content_loss", "style_loss", "seconds", "Mpx/s", "peak MiB", "parameters", "styles")


def table(lines: Sequence[Line]) -> str:
    """The lines as text, columns aligned; notes stand at the end."""
    rows = [["model", *COLUMNS, "note"], *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows
    )


def _cells(line: Line) -> list[str]:
    mib = "" if line.peak_mib is None else f"{line.peak_mib:,.0f}"
    losses = [f"{line.content_loss:.3f}", f"{line.style_loss:.3f}"]
    costs = [f"{line.seconds:.2f}", f"{line.mpx_per_s:.3f}", mib, f"{line.parameters:,}", line.styles]
    return [line.name, *losses, *costs, line.note]
