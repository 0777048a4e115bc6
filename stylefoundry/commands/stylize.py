"""`stylefoundry models stylize`: one picture or many in a model's style."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from zipfile import ZipFile

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stylefoundry.client import Client
from stylefoundry.errors import ApiError
from stylefoundry.terminal import DataDir, client_of, err, out, pairs_of, reference_of, value_of

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
DEFAULT = "stylized"  # the folder, or the file without its suffix
COMMON = ("/params/", "/style")  # what is wrong there is wrong for every content
PER_CONTENT = ("/params/size",)


class Format(StrEnum):
    PNG = "png"
    PNG16 = "png16"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def suffix(self) -> str:
        return {"png16": ".png", "jpeg": ".jpg"}.get(self.value, f".{self.value}")


class Color(StrEnum):
    NONE = "none"
    LUMINANCE = "luminance"
    CORAL = "coral"


@dataclass(frozen=True)
class Look:
    """What all pictures of one call have in common."""

    name: str
    version: str
    styles: Sequence[Path]
    weights: Sequence[float] | None
    masks: Sequence[Path]
    labels: Sequence[tuple[Path, Path]]
    init_image: Path | None
    maps: Path | None
    params: Mapping[str, Any]

    def draw(self, client: Client, content: Path, result: Path) -> None:
        """Into `result`, which appears when it is whole; maps beside it."""
        answer = client.stylize(
            self.name,
            content,
            version=self.version,
            styles=self.styles,
            weights=self.weights,
            masks=self.masks,
            labels=self.labels,
            init_image=self.init_image,
            params=self.params if self.maps is None else {**self.params, "maps": True},
        )
        write(result, answer if self.maps is None else self._unpacked(answer, result.stem, self.maps))

    def _unpacked(self, answer: bytes, stem: str, folder: Path) -> bytes:
        """The picture of a ZIP; its maps go to `folder`."""
        with ZipFile(BytesIO(answer)) as file:
            picture, *maps = file.namelist()
            for name in maps:
                write(folder / f"{stem}-{PurePosixPath(name).name}", file.read(name))
            return file.read(picture)


Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version is a number or an alias.")]
Exists = {"exists": True, "dir_okay": False}


def stylize(
    reference: Reference,
    content: Annotated[list[Path], typer.Argument(exists=True, help="Pictures, or folders of them.")],
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file for one picture, a folder for several.")
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:WEIGHT]", help="For models of arbitrary styles; may repeat.")
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(**Exists, help="Where a style goes, white on black: one for each style.")
    ] = None,
    content_labels: Annotated[
        list[Path] | None, typer.Option(**Exists, help="PNG: a colour for each region; one for all styles or for each.")
    ] = None,
    style_labels: Annotated[
        list[Path] | None, typer.Option(**Exists, help="PNG: the same colours in the style picture, one for each.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(**Exists, help="Another picture of the content, for models that go on from one.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(file_okay=False, help="A folder for what the method shows besides the picture.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="0 keeps the content, 1 takes the style.")] = None,
    preserve_color: Annotated[Color | None, typer.Option(help="How the content's colours are kept.")] = None,
    size: Annotated[int | None, typer.Option(help="Shorter side of the result, pixels.")] = None,
    style_size: Annotated[int | None, typer.Option(help="Shorter side of the style pictures, pixels.")] = None,
    format: Annotated[Format | None, typer.Option(help="Default: what --out ends in, else png.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another control of the model, as passes=2.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is in the output folder already.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Give pictures the model's style, on the service."""
    params = {key: value_of(value) for key, value in pairs_of(settings or [], "--set").items()}
    flags = {"strength": strength, "preserve_color": preserve_color, "size": size, "style_size": style_size}
    params |= {name: value for name, value in flags.items() if value is not None}
    single = len(content) == 1 and content[0].is_file() and not (output is not None and output.is_dir())
    if output is None:
        output = Path(DEFAULT + (format or Format.PNG).suffix) if single else Path(DEFAULT)
    format = format or (format_of(output) if single else Format.PNG)
    results = result_of(content[0], output, format) if single else results_of(content, output, format)
    styles, weights = styles_of(style or [])
    name, version = reference_of(reference)
    labels = label_pairs(content_labels or [], style_labels or [])
    params["format"] = format.value
    look = Look(name, version, styles, weights, mask or [], labels, init, maps, params)
    with client_of(data_dir) as client:
        if single and not (resume and output.is_file()):
            look.draw(client, content[0], output)
            out.print(str(output), soft_wrap=True)
        elif not single:
            many(client, look, results, resume=resume)


def format_of(output: Path) -> Format:
    """By the suffix of the file. Raises typer.BadParameter for one that is no picture's."""
    if (suffix := output.suffix.lower()) not in SUFFIXES:
        raise typer.BadParameter(f"--out {output}: a picture ends in {', '.join(SUFFIXES)}")
    return Format(SUFFIXES[suffix])


def styles_of(given: Sequence[str]) -> tuple[list[Path], list[float] | None]:
    """`wave.jpg:0.3` is a file and its weight; without weights None. Raises typer.BadParameter for what is no file."""
    styles, weights = [], []
    for text in given:
        path, weight = Path(text), 1.0
        if not path.is_file():
            before, colon, after = text.rpartition(":")
            path, weight = (Path(before), _number(after, text)) if colon else (path, weight)
        if not path.is_file():
            raise typer.BadParameter(f"--style {text}: there is no file {path}")
        styles.append(path)
        weights.append(weight)
    return styles, (None if set(weights) <= {1.0} else weights)


def label_pairs(contents: Sequence[Path], styles: Sequence[Path]) -> list[tuple[Path, Path]]:
    """A pair for every style. Raises typer.BadParameter where they do not pair."""
    contents = [contents[0]] * len(styles) if len(contents) == 1 and styles else contents
    if len(contents) != len(styles):
        raise typer.BadParameter(f"{len(contents)} --content-labels for {len(styles)} --style-labels: one, or as many")
    return list(zip(contents, styles, strict=True))


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--style {whole}: no such file, and {text!r} is no weight") from None


def result_of(content: Path, output: Path, format: Format) -> dict[Path, Path]:
    """Result -> picture. Raises typer.BadParameter for a name that belongs to another format, or is the picture's."""
    if SUFFIXES.get(output.suffix.lower()) != SUFFIXES[format.suffix]:
        raise typer.BadParameter(f"--out {output}: a picture in the format {format.value} ends in {format.suffix}")
    return {not_itself(output, content): content}


def not_itself(result: Path, picture: Path) -> Path:
    if result.resolve() == picture.resolve():
        raise typer.BadParameter(f"{picture} would be overwritten: choose another --out")
    return result


def results_of(content: Sequence[Path], folder: Path, format: Format) -> dict[Path, Path]:
    """Result -> picture: folders keep their shape. Raises typer.BadParameter where two would have one name."""
    results: dict[Path, Path] = {}
    for given in content:
        found = pictures_in(given) if given.is_dir() else [given]
        if not found:
            raise typer.BadParameter(f"{given} holds no pictures ({', '.join(PICTURES)})")
        for picture in found:
            relative = picture.relative_to(given) if given.is_dir() else Path(picture.name)
            result = not_itself(folder / relative.with_suffix(format.suffix), picture)
            if result in results:
                raise typer.BadParameter(f"{results[result]} and {picture} would both become {result}")
            results[result] = picture
    return results


def pictures_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )


def many(client: Client, look: Look, results: Mapping[Path, Path], *, resume: bool) -> None:
    """Draw one after the other; what fails is told at the end, the others go on. Exits with 1 if something did."""
    failures: dict[Path, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        bar = progress.add_task("stylising", total=len(results))
        for result, picture in results.items():
            if not (resume and result.is_file()):
                try:
                    look.draw(client, picture, result)
                except (ApiError, OSError) as error:
                    if isinstance(error, ApiError) and is_common(error):
                        raise
                    failures[picture] = reason_of(error)
                    progress.console.print(f"[red]{escape(str(picture))}[/]: {escape(failures[picture])}")
                else:
                    progress.console.print(escape(str(result)), soft_wrap=True)
            progress.advance(bar)
    if failures:
        err.print(f"[red]error:[/] {len(failures)} of {len(results)} pictures could not be drawn:", soft_wrap=True)
        for picture, reason in failures.items():
            err.print(f"  {escape(str(picture))}: {escape(reason)}", soft_wrap=True)
        sys.exit(1)


def is_common(error: ApiError) -> bool:
    """Whether every other picture would be refused alike: the key, the model, a style, a control."""
    pointers = [field.pointer for field in error.errors]
    fields = bool(pointers) and all(p.startswith(COMMON) and p not in PER_CONTENT for p in pointers)
    return error.status in (401, 403, 404) or fields


def reason_of(error: ApiError | OSError) -> str:
    if isinstance(error, ApiError) and error.errors:
        return "; ".join(f"{field.pointer}: {field.detail}" for field in error.errors)
    return str(error)


def write(path: Path, picture: bytes) -> None:
    """Whole or not at all: `--resume` takes a file that is there for done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(picture)
    part.replace(path)
