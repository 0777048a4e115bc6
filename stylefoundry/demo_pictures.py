"""The demo's pictures: photographs in the public domain from scikit-image's wheel, or the user's own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from stylefoundry.push import PICTURES

# All of them lie in the wheel itself (skimage/data), are CC0 or in the public domain, and need no download.
CONTENTS = ("coffee.png", "rocket.jpg", "camera.png", "coins.png", "clock_motion.png", "grass.png", "brick.png")
UNSEEN = ("astronaut.png", "chelsea.png")  # stylised at the end, never trained on
STYLES = ("ihc.png", "retina.jpg", "hubble_deep_field.jpg", "gravel.png", "color.png")
CROPS = 8  # of each photograph
PIECES = 4  # of each style
SIDE = 256  # of a crop, pixels
UNSEEN_SHOWN = 2


class Pictures(NamedTuple):
    """Folders to push, the styles to adapt to (paths in the folder of styles), photos to stylise at the end."""

    contents: Path
    styles: Path
    adapt_to: tuple[str, ...]
    unseen: tuple[Path, ...]


def prepare(folder: Path, content: Path | None, style: Path | None) -> Pictures:
    """Write the two folders below `folder`.

    content: the user's photos instead of scikit-image's; the first two are kept out of the training. style: the user's
    painting, the first of the two styles that are adapted to.
    Raises ValueError when `content` has fewer than four photos or `style` is no picture.
    """
    for name in ("contents", "styles", "unseen"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    photos = shipped(CONTENTS) if content is None else own_photos(content)
    unseen = shipped(UNSEEN) if content is None else photos[:UNSEEN_SHOWN]
    trained_on = photos if content is None else photos[UNSEEN_SHOWN:]
    for photo in trained_on:
        cut(photo, folder / "contents", CROPS, smallest=0.45)
    styles = shipped(STYLES)
    for picture in styles:
        cut(picture, folder / "styles", PIECES, smallest=0.35)
    first, second = (styles[0] if style is None else style), styles[1 if style is None else 0]
    adapt_to = tuple(whole(picture, folder / "styles") for picture in (first, second))
    return Pictures(
        folder / "contents",
        folder / "styles",
        adapt_to,
        tuple(folder / "unseen" / whole(photo, folder / "unseen", longest=512) for photo in unseen),
    )


def shipped(names: Sequence[str]) -> list[Path]:
    """Files of scikit-image's wheel. Raises ValueError when it is not installed."""
    try:
        data = Path(str(files("skimage") / "data"))
    except ModuleNotFoundError as error:
        raise ValueError("the demo's photographs come with scikit-image: pip install 'stylefoundry[demo]'") from error
    return [data / name for name in names]


def own_photos(folder: Path) -> list[Path]:
    """The user's pictures, in the order of their paths."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if len(found) < 2 * UNSEEN_SHOWN:
        raise ValueError(f"{folder} holds {len(found)} photos; the demo needs {2 * UNSEEN_SHOWN} or more")
    return found


def opened(path: Path) -> Image.Image:
    """Upright, RGB. Raises ValueError for what is no picture."""
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is no picture that can be read: {error}") from error


def cut(path: Path, folder: Path, count: int, *, smallest: float) -> None:
    """Square pieces of a picture, from almost all of it down to `smallest` of its shorter side, spread over it."""
    picture = opened(path)
    shorter = min(picture.size)
    for n in range(count):
        share = 1.0 - (1.0 - smallest) * n / max(1, count - 1)
        side = max(1, round(shorter * share))
        left = round((picture.width - side) * (n * 0.618 % 1.0))  # the golden ratio leaves no two beside each other
        top = round((picture.height - side) * (n * 0.382 % 1.0))
        piece = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        piece.save(folder / f"{path.stem}-{n + 1}.jpg", quality=95)


def whole(path: Path, folder: Path, *, longest: int = 1024) -> str:
    """A picture as a JPEG of at most `longest` pixels a side; its name in `folder`."""
    picture = opened(path)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    name = f"{path.stem}.jpg"
    picture.save(folder / name, quality=95)
    return name


def contact_sheet(
    contents: Sequence[Path], styles: Sequence[Path], results: Sequence[Sequence[Path]], target: Path
) -> None:
    """A row for each content, a column for each style: contents on the left, styles on top.

    results: one row for each content.
    """
    side, gap, label = 256, 12, 22
    font = ImageFont.load_default(14)
    width, height = (side + gap) * (1 + len(styles)) + gap, (side + label + gap) * (1 + len(contents)) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)

    def place(path: Path, row: int, column: int, text: str) -> None:
        left, top = gap + column * (side + gap), gap + row * (side + label + gap)
        sheet.paste(ImageOps.fit(opened(path), (side, side), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + side + 3), text, fill="black", font=font)

    for column, style in enumerate(styles, start=1):
        place(style, 0, column, f"style: {style.stem}")
    for row, content in enumerate(contents, start=1):
        place(content, row, 0, f"content: {content.stem}")
        for column, result in enumerate(results[row - 1], start=1):
            place(result, row, column, "result")
    sheet.save(target)
