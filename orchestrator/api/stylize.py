"""A picture in a model's style, drawn at once by a warm worker. The request travels through Redis and expires there."""

from __future__ import annotations

import json
import time
from io import BytesIO
from typing import Annotated, Any

import redis
from fastapi import APIRouter, File, Form, Response, UploadFile
from PIL import Image

from orchestrator.api.auth import Caller
from orchestrator.api.models import VersionPath, found
from orchestrator.api.schemas import WRITES, NamePath, problems
from orchestrator.api.services import Here, Services
from orchestrator.catalogue import InvalidConfig, TaskInfo
from orchestrator.ids import new_id
from orchestrator.problems import FieldProblem, Internal, Invalid, Unavailable, invalid_field, invalid_fields

router = APIRouter(prefix="/v1/models", tags=["models"])

READABLE = ("JPEG", "PNG", "WEBP")
FORMATS = {"png": "image/png", "jpeg": "image/jpeg"}
ANSWER_S = 120.0  # so long may a picture take
FREE_WITHIN_S = 5.0  # a worker that has just ended a job is free again in a moment: worth waiting for
FREE_POLL_S = 0.05
RETRY_AFTER_S = 2
PICTURE = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/{name}/versions/{version}/stylize",
    response_class=Response,
    responses={
        **problems(404, *WRITES),
        200: {"description": "the picture", "content": dict.fromkeys(FORMATS.values(), PICTURE)},
    },
)
def stylize(
    name: NamePath,
    version: VersionPath,
    caller: Caller,
    services: Here,
    content: Annotated[UploadFile, File(description="JPEG, PNG or WebP")],
    style: Annotated[list[UploadFile], File(description="for models of arbitrary styles")] = [],  # noqa: B006
    params: Annotated[str, Form(description="JSON: the model's controls, and `format`: png or jpeg")] = "{}",
) -> Response:
    """Draw `content` in the style of a model, as large as it is after its EXIF rotation.

    503 when no warm worker is free: try again after `Retry-After`.
    """
    model = found(services, caller, name, version)
    info = services.catalogue.task(model.model.method, model.model.task)
    if info is None:
        raise Invalid(f"this service does not know {model.model.method}/{model.model.task}")
    controls, format = _controls(info, params)
    _check_count(info, len(style))
    pictures = {"content": _read(services, "/content", content)}
    pictures |= {f"style-{n}": _read(services, f"/style/{n}", picture) for n, picture in enumerate(style)}
    request = {
        "model": {"prefix": model.model.prefix, "files": model.model.files},
        "params": controls,
        "format": format,
        "styles": len(style),
    }
    if not services.drawing.acquire(blocking=False):
        raise Unavailable("too many pictures are being drawn", retry_after_s=RETRY_AFTER_S)
    try:
        head, picture = _asked(services, request, pictures)
    finally:
        services.drawing.release()
    if head["status"] == 200:
        return Response(picture, media_type=head["content_type"], headers={"Cache-Control": "no-store"})
    raise _refusal(head)


def _controls(info: TaskInfo, text: str) -> tuple[dict[str, Any], str]:
    """The model's controls, complete, and the format of the answer. Raises Invalid."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_field("/params", "is not JSON") from error
    if not isinstance(given, dict):
        raise invalid_field("/params", "is not a JSON object")
    format = given.pop("format", "png")
    if not isinstance(format, str) or format not in FORMATS:
        raise invalid_field("/params/format", f"allowed are {', '.join(FORMATS)}")
    try:
        return info.complete_controls(given), format
    except InvalidConfig as error:
        raise invalid_fields([FieldProblem(f"/params{e.pointer}", e.detail) for e in error.errors]) from error


def _check_count(info: TaskInfo, count: int) -> None:
    fewest, most = info.styles
    if not fewest <= count <= most:
        allowed = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise invalid_field("/style", f"{count} pictures were given, this model takes {allowed}")


def _read(services: Services, pointer: str, upload: UploadFile) -> bytes:
    """The bytes of a picture whose head says that it can be read. Raises Invalid."""
    data = upload.file.read()
    most = services.settings.max_picture_mpx
    try:
        with Image.open(BytesIO(data), formats=READABLE) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise invalid_field(pointer, f"has more than {most} megapixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise invalid_field(pointer, f"is no picture: {', '.join(READABLE)} can be read") from error
    if width * height > most * 1_000_000:
        raise invalid_field(pointer, f"has {width} x {height} pixels, more than {most} megapixels")
    return data


def _asked(services: Services, request: dict[str, Any], pictures: dict[str, bytes]) -> tuple[dict[str, Any], bytes]:
    """A worker's answer. Raises Unavailable when none is free, none answers, or Redis is away."""
    request_id = new_id("stylize")
    deadline = time.monotonic() + ANSWER_S
    try:
        _wait_for_a_worker(services)
        services.bus.request(request_id, request, pictures, expire_s=int(ANSWER_S))
        answer = services.bus.wait_for_answer(request_id, timeout_s=deadline - time.monotonic())
    except redis.RedisError as error:
        raise Unavailable("Redis, which carries these requests, is away", retry_after_s=RETRY_AFTER_S) from error
    if answer is None:
        raise Unavailable(f"no worker answered within {ANSWER_S:g} s", retry_after_s=RETRY_AFTER_S)
    return answer


def _wait_for_a_worker(services: Services) -> None:
    """Return as soon as one is free. Raises Unavailable when none gets free, or Redis's error."""
    deadline = time.monotonic() + FREE_WITHIN_S
    while services.bus.idle_workers() == 0:
        if time.monotonic() > deadline:
            raise Unavailable("no warm worker is free", retry_after_s=RETRY_AFTER_S)
        time.sleep(FREE_POLL_S)


def _refusal(head: dict[str, Any]) -> Invalid | Unavailable | Internal:
    detail = str(head.get("detail", "the worker could not draw it"))
    if head["status"] == 422:
        field, colon, reason = detail.partition(": ")
        if colon and (field == "content" or field.startswith("style-")):
            return invalid_field("/" + field.replace("-", "/"), reason)
        return Invalid(detail)
    if head["status"] == 503:
        return Unavailable(detail, retry_after_s=RETRY_AFTER_S)
    return Internal(detail)
