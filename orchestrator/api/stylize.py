"""A picture in a model's style, drawn at once by a warm worker. The request travels through Redis and expires there."""

from __future__ import annotations

import time
from typing import Annotated, Any

import redis
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool

from orchestrator.api.auth import Drawer
from orchestrator.api.drawing import FORMATS, Asked, checked
from orchestrator.api.models import VersionPath, found
from orchestrator.api.schemas import WRITES, NamePath, problems
from orchestrator.api.services import Here, Services
from orchestrator.ids import new_id
from orchestrator.problems import Internal, Invalid, Unavailable, invalid_field
from orchestrator.store.keys import Caller

router = APIRouter(prefix="/v1/models", tags=["models"])

FREE_WITHIN_S = 5.0  # a worker that has just ended a job is free again in a moment: worth waiting for
FREE_POLL_S = 0.05
LOOK_S = 1.0  # between two looks whether the caller is still there
GRACE_S = 5.0  # beyond the time that the worker has: its own word about it comes first
RETRY_AFTER_S = 2
PICTURE = {"schema": {"type": "string", "format": "binary"}}
PARAMS = (
    "JSON: the model's controls, `weights` (a number for each style), `format` (png, png16, jpeg, webp), "
    "`maps` (true: a ZIP of the picture and of what the method shows besides)"
)
ZIP = "application/zip"
LabelMaps = Annotated[
    list[UploadFile], File(description="PNG, a colour for each region: one for all styles or for each")
]
StyleLabels = Annotated[list[UploadFile], File(description="PNG, the same colours in the style picture: one for each")]

StylePictures = Annotated[list[UploadFile], File(description="for models of arbitrary styles")]
Masks = Annotated[
    list[UploadFile], File(description="one for each style in their order, or none; as large as content; white: here")
]


@router.post(
    "/{name}/versions/{version}/stylize",
    response_class=Response,
    responses={
        **problems(404, *WRITES),
        200: {"description": "the picture", "content": dict.fromkeys([*FORMATS.values(), ZIP], PICTURE)},
    },
)
async def stylize(
    request: Request,
    name: NamePath,
    version: VersionPath,
    caller: Drawer,
    services: Here,
    content: Annotated[UploadFile, File(description="JPEG, PNG or WebP")],
    style: StylePictures = [],  # noqa: B006
    mask: Masks = [],  # noqa: B006
    content_labels: LabelMaps = [],  # noqa: B006
    style_labels: StyleLabels = [],  # noqa: B006
    init_image: Annotated[UploadFile | None, File(description="a picture to start from, as large as content")] = None,
    params: Annotated[str, Form(description=PARAMS)] = "{}",
) -> Response:
    """Draw `content` in the style of a model, as large as it is after its EXIF rotation unless `params` say a size.

    503 when no warm worker is free: try again after `Retry-After`. A picture that takes longer than the service's
    setting `stylize_timeout_s` is given up.
    """
    asked = Asked(content, style, mask, content_labels, style_labels, init_image, params)
    body, pictures = await run_in_threadpool(_prepared, services, caller, name, version, asked)
    if not services.drawing.acquire(blocking=False):
        raise Unavailable("too many pictures are being drawn", retry_after_s=RETRY_AFTER_S)
    try:
        head, picture = await _answer(request, services, body, pictures)
    except redis.RedisError as error:
        raise Unavailable("Redis, which carries these requests, is away", retry_after_s=RETRY_AFTER_S) from error
    finally:
        services.drawing.release()
    if head["status"] == 200:
        return Response(picture, media_type=head["content_type"], headers={"Cache-Control": "no-store"})
    raise _refusal(head)


def _prepared(
    services: Services, caller: Caller, name: str, version: str, asked: Asked
) -> tuple[dict[str, Any], dict[str, bytes]]:
    model = found(services, caller, name, version).model
    info = services.catalogue.task(model.method, model.task)
    if info is None:
        raise Invalid(f"this service does not know {model.method}/{model.task}")
    body, pictures = checked(info, asked, max_mpx=services.settings.max_picture_mpx)
    pinned = {"prefix": model.prefix, "files": model.files}
    return body | {"model": pinned, "timeout_s": services.settings.stylize_timeout_s}, pictures


async def _answer(
    request: Request, services: Services, body: dict[str, Any], pictures: dict[str, bytes]
) -> tuple[dict[str, Any], bytes]:
    """A worker's answer; no thread is held but for a second at a time, and a caller that hangs up ends the drawing.

    Raises Unavailable when no worker is free or none answers, or Redis's error.
    """
    request_id = new_id("stylize")
    within_s = services.settings.stylize_timeout_s + GRACE_S
    await run_in_threadpool(_wait_for_a_worker, services)
    await run_in_threadpool(services.bus.request, request_id, body, pictures, expire_s=int(within_s) + 1)
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        answer = await run_in_threadpool(services.bus.wait_for_answer, request_id, timeout_s=min(LOOK_S, left))
        if answer is not None:
            return answer
        if await request.is_disconnected():
            break
    await run_in_threadpool(services.bus.withdraw, request_id)
    raise Unavailable(f"no worker answered within {within_s:g} s", retry_after_s=RETRY_AFTER_S)


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
        pointer = head.get("pointer")
        return Invalid(detail) if pointer is None else invalid_field(str(pointer), detail)
    if head["status"] == 503:
        return Unavailable(detail, retry_after_s=RETRY_AFTER_S)
    return Internal(detail)
