"""What a stylisation is asked for: pictures, masks, label maps and parameters, checked before a worker hears of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import fsum, isfinite
from typing import Any

from fastapi import UploadFile
from PIL import Image

from orchestrator.catalogue import InvalidConfig, TaskInfo
from orchestrator.problems import FieldProblem, invalid_field, invalid_fields

READABLE = ("JPEG", "PNG", "WEBP")
FORMATS = {"png": "image/png", "png16": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True)
class Asked:
    """The fields of the form, as they came."""

    content: UploadFile
    styles: list[UploadFile]
    masks: list[UploadFile]
    content_labels: list[UploadFile]
    style_labels: list[UploadFile]
    init_image: UploadFile | None
    params: str


@dataclass(frozen=True)
class Params:
    """What stands in `params`."""

    controls: dict[str, Any]  # those that were given, checked
    weights: list[float] | None = None
    format: str = "png"
    maps: bool = False  # also what the method shows besides


@dataclass(frozen=True)
class Uploaded:
    """A picture whose head says that it can be read. Sizes are before an EXIF rotation."""

    pointer: str
    data: bytes = field(repr=False)
    width: int
    height: int

    @property
    def sides(self) -> tuple[int, int]:
        """The shorter and the longer one, which no rotation changes."""
        return min(self.width, self.height), max(self.width, self.height)


def checked(info: TaskInfo, asked: Asked, *, max_mpx: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The request for a worker and its pictures by name. Raises Invalid that names the field."""
    if not info.draws:
        raise invalid_field("", f"a model of {info.method}/{info.task} draws no pictures")
    params = read_params(info, asked.params, len(asked.styles))
    check_styles(info, asked)
    content = read_picture("/content", asked.content, max_mpx)
    styles = [read_picture(f"/style/{n}", style, max_mpx) for n, style in enumerate(asked.styles)]
    masks = [read_picture(f"/mask/{n}", mask, max_mpx) for n, mask in enumerate(asked.masks)]
    for mask in masks:
        check_covers(mask, content)
    check_asked_size("size", params.controls, content, max_mpx)
    for style in styles:
        check_asked_size("style_size", params.controls, style, max_mpx)
    pictures = {"content": content.data}
    pictures |= {f"style-{n}": style.data for n, style in enumerate(styles)}
    pictures |= {f"mask-{n}": mask.data for n, mask in enumerate(masks)}
    pictures |= read_labels(asked, content, styles, max_mpx)
    if asked.init_image is not None:
        start = read_picture("/init_image", asked.init_image, max_mpx)
        check_covers(start, content)
        pictures["init_image"] = start.data
    request = {
        "params": params.controls,
        "weights": params.weights,
        "format": params.format,
        "styles": len(styles),
        "masks": bool(masks),
        "regions": [len(asked.content_labels), len(asked.style_labels)],
        "init_image": asked.init_image is not None,
        "maps": params.maps,
    }
    return request, pictures


def read_params(info: TaskInfo, text: str, styles: int) -> Params:
    """Raises Invalid with every bad control, or the first other bad field."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_field("/params", "is not JSON") from error
    if not isinstance(given, dict):
        raise invalid_field("/params", "is not a JSON object")
    format = given.pop("format", "png")
    if not isinstance(format, str) or format not in FORMATS:
        raise invalid_field("/params/format", f"allowed are {', '.join(FORMATS)}")
    maps = given.pop("maps", False)
    if not isinstance(maps, bool):
        raise invalid_field("/params/maps", "must be true or false")
    weights = None if (listed := given.pop("weights", None)) is None else read_weights(listed, styles)
    try:
        complete = info.complete_controls(given)
    except InvalidConfig as error:
        raise invalid_fields([FieldProblem(f"/params{e.pointer}", e.detail) for e in error.errors]) from error
    return Params({name: complete[name] for name in given}, weights, format, maps)


def read_weights(listed: Any, styles: int) -> list[float]:
    """One number for each style, none below 0 and not all 0. Raises Invalid."""
    if not isinstance(listed, list):
        raise invalid_field("/params/weights", "must be a list of numbers, one for each style")
    if len(listed) != styles:
        raise invalid_field("/params/weights", f"{len(listed)} were given for {styles} styles: one for each, or none")
    for n, weight in enumerate(listed):
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not _is_share(weight):
            raise invalid_field(f"/params/weights/{n}", "must be a number, at least 0")
    weights = [float(weight) for weight in listed]
    if styles and not 0 < fsum(weights) < float("inf"):
        raise invalid_field("/params/weights", "may not all be 0, and their sum must be a number")
    return weights


def check_styles(info: TaskInfo, asked: Asked) -> None:
    """Whether the model takes as many styles, masks and label maps. Raises Invalid."""
    fewest, most = info.styles
    count = len(asked.styles)
    if not fewest <= count <= most:
        allowed = "none: the model is the style" if most == 0 else str(fewest)
        allowed = allowed if fewest == most else f"{fewest} to {most}"
        raise invalid_field("/style", f"{count} pictures were given, this model takes {allowed}")
    name = f"{info.method}/{info.task}"
    if asked.masks and not info.masks:
        raise invalid_field("/mask", f"a model of {name} takes no masks")
    if asked.masks and len(asked.masks) != count:
        raise invalid_field("/mask", f"{len(asked.masks)} masks were given for {count} styles: one for each, or none")
    if asked.init_image is not None and not info.init_image:
        raise invalid_field("/init_image", f"a model of {name} starts from the content alone")
    check_labels(info, name, len(asked.content_labels), len(asked.style_labels), styles=count)


def check_labels(info: TaskInfo, name: str, of_content: int, of_styles: int, *, styles: int) -> None:
    """One map for every style, and one for the content, or one a style. Raises Invalid."""
    given = [pointer for pointer, n in (("/content_labels", of_content), ("/style_labels", of_styles)) if n]
    if not given:
        return
    if not info.regions:
        raise invalid_field(given[0], f"a model of {name} takes no label maps")
    if of_styles != styles:
        raise invalid_field("/style_labels", f"{of_styles} were given for {styles} styles: one for each, or none")
    if of_content not in (1, styles):
        raise invalid_field("/content_labels", f"{of_content} were given for {styles} styles: one for all, or for each")


def read_picture(pointer: str, upload: UploadFile, max_mpx: int, readable: tuple[str, ...] = READABLE) -> Uploaded:
    """The bytes of a picture and its size, by its head alone. Raises Invalid."""
    data = upload.file.read()
    try:
        with Image.open(BytesIO(data), formats=readable) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise invalid_field(pointer, f"has more than {max_mpx} megapixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise invalid_field(pointer, f"is no picture: {', '.join(readable)} can be read") from error
    if width * height > max_mpx * 1_000_000:
        raise invalid_field(pointer, f"has {width} x {height} pixels, more than {max_mpx} megapixels")
    return Uploaded(pointer, data, width, height)


def read_labels(asked: Asked, content: Uploaded, styles: list[Uploaded], max_mpx: int) -> dict[str, bytes]:
    """The label maps, each as large as its picture. Raises Invalid."""
    of_content = [(f"content_labels/{n}", upload, content) for n, upload in enumerate(asked.content_labels)]
    of_styles = [(f"style_labels/{n}", upload, styles[n]) for n, upload in enumerate(asked.style_labels)]
    read = {}
    for name, upload, picture in of_content + of_styles:
        labels = read_picture(f"/{name}", upload, max_mpx, readable=("PNG",))
        check_covers(labels, picture)
        read[name.replace("/", "-")] = labels.data
    return read


def check_covers(above: Uploaded, picture: Uploaded) -> None:
    """Whether a mask or label map can be as large as its picture; the worker, which rotates, knows. Raises Invalid."""
    if above.sides != picture.sides:
        raise invalid_field(
            above.pointer,
            f"has {above.width} x {above.height} pixels, its picture {picture.width} x {picture.height}: "
            "both must be of one size",
        )


def check_asked_size(name: str, controls: Mapping[str, Any], picture: Uploaded, max_mpx: int) -> None:
    """Whether the picture that a shorter side of `controls[name]` px means is small enough. Raises Invalid."""
    side = controls.get(name) or 0
    shorter, longer = picture.sides
    if side and side * (side * longer / shorter) > max_mpx * 1_000_000:
        detail = f"{side} was given: {picture.pointer} would have {side} x {round(side * longer / shorter)} pixels"
        raise invalid_field(f"/params/{name}", f"{detail}, more than {max_mpx} megapixels")


def _is_share(weight: float) -> bool:
    try:
        return isfinite(weight) and weight >= 0
    except OverflowError:  # an integer beyond every float
        return False
