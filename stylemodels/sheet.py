"""A contact sheet: pictures side by side under their names, on one page that people look at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stylemodels.images import MAX_SIDE_PX, resize, to_uint8

TILE_PX = 256  # the longer side of a picture
GAP_PX = 12
NAME_PX, NOTE_PX = 16, 12  # sizes of letters
CAPTION_PX = 44
COLUMNS = 4
MOST_ROWS = MAX_SIDE_PX[".jpg"] // (TILE_PX + CAPTION_PX + GAP_PX) - 1  # that any JPEG can have
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


class Cell(NamedTuple):
    """A picture with its name, and a line below it."""

    picture: Tensor  # (1, 3, H, W) in [0, 1]
    name: str
    note: str = ""


def contact_sheet(blocks: Sequence[Sequence[Cell]], *, columns: int = COLUMNS) -> Image.Image:
    """Blocks of cells below each other, each block in rows of `columns`; pictures keep their proportions.

    Rows have more columns where there would be more of them than a JPEG can have.
    """
    rows = _rows(blocks, columns)
    while len(rows) > max(MOST_ROWS, len(blocks)):
        columns += 1
        rows = _rows(blocks, columns)
    heights = [max(_tile(cell.picture)[1] for cell in row) + CAPTION_PX + GAP_PX for row in rows]
    width = columns * (TILE_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, sum(heights) + GAP_PX), PAPER)
    top = GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            _paste(sheet, cell, GAP_PX + column * (TILE_PX + GAP_PX), top)
        top += height
    return sheet


def thumbnail(picture: Tensor) -> Tensor:
    """A picture (1, 3, H, W) in [0, 1], no larger than a sheet shows it: many can be kept until the sheet is made."""
    width, height = _tile(picture)
    return picture if max(picture.shape[-2:]) <= TILE_PX else resize(picture, height, width)


def _rows(blocks: Sequence[Sequence[Cell]], columns: int) -> list[Sequence[Cell]]:
    return [block[start : start + columns] for block in blocks for start in range(0, len(block), columns)]


def _tile(picture: Tensor) -> tuple[int, int]:
    """Width and height on the sheet."""
    height, width = picture.shape[-2:]
    scale = TILE_PX / max(height, width)
    return max(1, round(scale * width)), max(1, round(scale * height))


def _paste(sheet: Image.Image, cell: Cell, left: int, top: int) -> None:
    width, height = _tile(cell.picture)
    tile = Image.fromarray(to_uint8(cell.picture).numpy()).resize((width, height), Image.Resampling.LANCZOS)
    sheet.paste(tile, (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top + height + 4), _fitting(cell.name, NAME_PX), INK, font=_font(NAME_PX))
    draw.text((left, top + height + 24), _fitting(cell.note, NOTE_PX), FAINT, font=_font(NOTE_PX))


def _fitting(text: str, size: int) -> str:
    """Cut where it would run into the next picture."""
    if _font(size).getlength(text) <= TILE_PX:
        return text
    while text and _font(size).getlength(text + "…") > TILE_PX:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
