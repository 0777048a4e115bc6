"""One stylise request drawn: pictures, masks and label maps decoded, the model told, the result encoded.

What a caller got wrong is `Refused`, which names the field of the form that the caller filled in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from itertools import repeat
from typing import Any
from zipfile import ZipFile

import redis
import structlog
from torch import Tensor

from orchestrator.bus import Bus
from stylemodels.images import CONTENT_TYPES, encode, load_picture
from stylemodels.maps import encoded_maps, load_mask, load_regions
from stylemodels.method import Regions, Style
from stylemodels.options import OPTIONS
from stylemodels.schema import InvalidConfig
from stylemodels.stylize import Model

log = structlog.get_logger()

ZIP = "application/zip"
LOOK_S = 1.0  # between two looks whether somebody still waits
FIELDS = {"content": "/content", "styles": "/style", "weights": "/params/weights"}
FIELDS |= {name: f"/{name}" for name in ("content_labels", "style_labels", "init_image")}
FIELDS |= {name: f"/params/{name}" for name in OPTIONS}


class Refused(ValueError):
    """What was asked for cannot be drawn. pointer: the field of the form, None where it is no single one."""

    def __init__(self, pointer: str | None, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer


class Expired(Exception):
    """The pictures of a request have gone, or nobody waits for the result."""


class Watch:
    """Ends a drawing that takes too long or that nobody waits for any more; a `report` of `Model.stylize`."""

    def __init__(self, bus: Bus, request_id: str, timeout_s: float) -> None:
        self._bus = bus
        self._request_id = request_id
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._next_look = 0.0

    def __call__(self, share: float) -> None:
        """Raises Refused or Expired."""
        now = time.monotonic()
        if now > self._deadline:
            detail = f"the picture would take longer than {self._timeout_s:g} s, the most that this service allows: "
            raise Refused("/params/size", detail + f"{share:.0%} were done; ask for a smaller size")
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        if not self.is_awaited():
            raise Expired("nobody waits for this picture any more")

    def is_awaited(self) -> bool:
        """True as long as nobody says otherwise: without Redis the drawing goes on, it may come back."""
        try:
            return self._bus.is_awaited(self._request_id)
        except redis.RedisError:
            return True


def draw(
    request: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Model], bus: Bus, *, max_mpx: int
) -> tuple[dict[str, Any], bytes]:
    """The answer's head and the picture. load: the model that `request["model"]` pins, from wherever it lies.

    Raises Refused, Expired, and what `load` raises.
    """
    watch = Watch(bus, str(request["id"]), float(request["timeout_s"]))
    watch(0.0)
    pictures = Pictures(bus, str(request["id"]), max_pixels=max_mpx * 1_000_000)
    content = pictures.read("content")
    styles = styles_of(request, pictures)
    model = load(request["model"])
    start = pictures.read("init_image") if request["init_image"] else None
    with naming_fields():
        picture = model.picture(content, styles, request["params"], init_image=start, report=watch)
        if picture.image is None:
            raise Refused(None, f"a model of {model.name} draws no pictures")
    with naming_fields("/params/format"):
        data = encode(picture.image, request["format"])
    height, width = picture.image.shape[-2:]
    content_type = CONTENT_TYPES[request["format"]]
    if request["maps"]:
        content_type, data = ZIP, zipped(data, content_type, picture.maps)
    return {"status": 200, "content_type": content_type, "width": width, "height": height}, data


def zipped(picture: bytes, content_type: str, maps: Mapping[str, Tensor]) -> bytes:
    """`picture.png` (or .jpeg, .webp), `maps/NAME.png`, and the numbers of curves in `maps/figures.json`.

    Stored as they are: pictures are compressed already.
    """
    out = BytesIO()
    with ZipFile(out, "w") as file:
        file.writestr(f"picture.{content_type.partition('/')[2]}", picture)
        for name, data in encoded_maps(maps).items():
            file.writestr(f"maps/{name}", data)
    return out.getvalue()


class Pictures:
    """The pictures of one request, decoded when they are asked for."""

    def __init__(self, bus: Bus, request_id: str, *, max_pixels: int) -> None:
        self._bus = bus
        self._request_id = request_id
        self._max_pixels = max_pixels

    def read(self, name: str) -> Tensor:
        """(1, 3, H, W) in [0, 1]. Raises Refused or Expired."""
        data = self._data(name)
        try:
            return load_picture(data, max_pixels=self._max_pixels)
        except ValueError as error:
            raise Refused(pointer_of_part(name), str(error)) from error

    def mask(self, name: str) -> Tensor:
        """(1, 1, H, W) in [0, 1]. Raises Refused or Expired."""
        data = self._data(name)
        try:
            return load_mask(data, max_pixels=self._max_pixels)
        except ValueError as error:
            raise Refused(pointer_of_part(name), str(error)) from error

    def regions(self, content: int, style: int) -> Regions:
        """From the maps of these numbers. Raises Refused or Expired."""
        maps = self._data(f"content_labels-{content}"), self._data(f"style_labels-{style}")
        with naming_fields():
            return load_regions(*maps, max_pixels=self._max_pixels)

    def _data(self, name: str) -> bytes:
        data = self._bus.blob(self._request_id, name)
        if data is None:
            raise Expired(f"{name}: the picture had expired before a worker was free")
        return data


def styles_of(request: Mapping[str, Any], pictures: Pictures) -> list[Style]:
    """Raises Refused or Expired."""
    of_content, of_styles = request["regions"]
    weights = request["weights"] or repeat(1.0)
    return [
        Style(
            image=pictures.read(f"style-{n}"),
            weight=weight,
            mask=pictures.mask(f"mask-{n}") if request["masks"] else None,
            regions=pictures.regions(min(n, of_content - 1), n) if of_styles else None,
        )
        for n, weight in zip(range(request["styles"]), weights, strict=False)
    ]


@contextmanager
def naming_fields(otherwise: str | None = None) -> Iterator[None]:
    """Turns the library's ValueError into Refused: its message begins with what was wrong, else it is `otherwise`."""
    try:
        yield
    except Refused:
        raise
    except InvalidConfig as error:
        raise Refused(f"/params{error.errors[0].pointer}", error.errors[0].detail) from error
    except ValueError as error:
        pointer, detail = pointer_of_message(str(error))
        raise Refused(pointer or otherwise, detail) from error


def pointer_of_part(name: str) -> str:
    """`style-1` is `/style/1`."""
    return "/" + name.replace("-", "/")


def pointer_of_message(message: str) -> tuple[str | None, str]:
    """`content: too small` is about `/content`, `style 2: mask: …` about `/mask/1`; None where no field is named."""
    if numbered := re.fullmatch(r"style (\d+): (?:(mask|regions): )?(.*)", message, re.DOTALL):
        index, what = int(numbered[1]) - 1, numbered[2]
        pointer = "/content_labels" if what == "regions" else f"/{what or 'style'}/{index}"
        return pointer, numbered[3]
    name, colon, detail = message.partition(": ")
    return (FIELDS[name], detail) if colon and name in FIELDS else (None, message)
