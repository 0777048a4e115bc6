"""`stylize`: pictures in the style of a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylemodels.commands import progress
from stylemodels.commands.arguments import add_drawing, add_machine, drawing_model, drawing_styles, settings
from stylemodels.commands.folders import pictures_under
from stylemodels.images import QUALITY, SUFFIXES
from stylemodels.large import stylize_file
from stylemodels.method import Style
from stylemodels.png import Bits
from stylemodels.stylize import Model


@dataclass(frozen=True)
class Drawing:
    """All that the pictures of one call share."""

    model: Model
    styles: list[Style]
    controls: dict[str, Any]
    bits: Bits
    quality: int
    init_image: Path | None
    maps: Path | None

    def draw(self, content: Path, out: Path, report: Callable[[float], None]) -> None:
        stylize_file(
            self.model,
            content,
            out,
            self.styles,
            self.controls,
            init_image=self.init_image,
            maps=self.maps,
            report=report,
            bits=self.bits,
            quality=self.quality,
        )


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Draw a picture, or every picture under a folder, in the style of a finished model. "
        "A result is as large as its content unless --set size=N says otherwise."
    )
    command.epilog = (
        "example: python -m stylemodels stylize --model wct-small --content photo.jpg --style wave.jpg:2 "
        "--style starry.jpg:1 --set strength=0.8 --out result.png"
    )
    add_drawing(command)
    kinds = ", ".join(SUFFIXES)
    command.add_argument(
        "--content", type=Path, required=True, metavar="FILE|DIR", help=f"{kinds}; or a folder of them"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE|DIR", help="its suffix says the format; a folder for a folder"
    )
    command.add_argument(
        "--format", choices=[s[1:] for s in SUFFIXES], help="of a folder's results; default: as each is"
    )
    command.add_argument("--tile", type=int, metavar="N", help="draw in tiles of N pixels: memory grows with N alone")
    command.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a channel; 16 as PNG and TIFF")
    command.add_argument(
        "--quality", type=int, default=QUALITY, help="of JPEG and WebP, 1 to 100 (default: %(default)s)"
    )
    command.add_argument(
        "--init", type=Path, metavar="FILE", help="another picture of the content, for methods that go on from one"
    )
    command.add_argument(
        "--maps", type=Path, metavar="DIR", help="also write what the method shows besides: label maps, attention, …"
    )
    command.add_argument("--resume", action="store_true", help="folders: leave results alone that are there already")
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    controls = settings(options.set)
    if options.tile is not None:
        controls["tile"] = options.tile
    if not 1 <= options.quality <= 100:
        raise ValueError(f"--quality {options.quality}: 1 to 100 are allowed")
    check_places(options)
    model = drawing_model(options)
    model.told(controls)
    drawing = Drawing(
        model, drawing_styles(options), controls, options.bits, options.quality, options.init, options.maps
    )
    if options.content.is_dir():
        return draw_folder(drawing, options.content, options.out, options.format, skip=options.resume)
    drawing.draw(options.content, options.out, lambda share: progress.show(f"{progress.bar(share)} {share:.0%}"))
    progress.end()
    print(options.out)
    return 0


def check_places(options: argparse.Namespace) -> None:
    """Raises ValueError before anything slow happens."""
    content, out = options.content, options.out
    if not content.exists():
        raise ValueError(f"--content {content}: there is no such file or folder")
    if out.exists() and out.samefile(content):
        raise ValueError(f"--out {out}: this is the content itself; choose another place")
    if content.is_dir():
        if out.is_file():
            raise ValueError(f"--out {out}: a file, but the results of a folder lie in a folder")
        return
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: write the name of a file in a folder that is there")
    for flag in ("format", "resume"):
        if getattr(options, flag):
            raise ValueError(f"--{flag}: only for a folder of pictures, and --content {content} is a file")


def draw_folder(drawing: Drawing, folder: Path, out: Path, format: str | None, *, skip: bool) -> int:
    """Every picture under `folder` to the same place under `out`. One that cannot be read is told and passed over."""
    jobs = [(content, result) for content, result in results(folder, out, format) if not (skip and result.exists())]
    failed = 0
    for number, (content, result) in enumerate(jobs):
        result.parent.mkdir(parents=True, exist_ok=True)
        try:
            drawing.draw(content, result, _reporter(number, len(jobs), content.name))
        except ValueError as error:
            if not str(error).startswith(str(content)):
                raise ValueError(f"{content}: {error}") from error
            progress.tell(f"stylemodels: {error}")
            failed += 1
        else:
            progress.show("")
            print(result, flush=True)
    progress.show(f"{progress.bar(1)} {len(jobs) - failed} of {len(jobs)} pictures drawn")
    progress.end()
    return 1 if failed else 0


def results(folder: Path, out: Path, format: str | None) -> list[tuple[Path, Path]]:
    """Every picture under `folder`, but for those under `out`, and where its result goes.

    Raises ValueError when there is none, and for two with the same result.
    """
    content_of: dict[Path, Path] = {}
    for content in pictures_under(folder):
        name = content.relative_to(folder)
        result = out / (name if format is None else name.with_suffix(f".{format}"))
        if result in content_of:
            raise ValueError(f"{content} and {content_of[result]} would both become {result}")
        if out.absolute() not in content.absolute().parents:
            content_of[result] = content
    return [(content, result) for result, content in content_of.items()]


def _reporter(number: int, count: int, name: str) -> Callable[[float], None]:
    return lambda share: progress.show(f"{progress.bar((number + share) / count)} {number}/{count}  {name} {share:.0%}")
