"""How large a body may be. FastAPI's own limit answers in plain text, and ours is always a problem document."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.errors import respond
from orchestrator.problems import TooLarge

MIB = 1024 * 1024
SMALL_BODY = MIB
LARGE_BODY = 32 * MIB  # lists of files, pictures
LARGE_PATHS = re.compile(r"/v1/(datasets/[^/]+/(uploads|versions)|models/[^/]+/versions/[^/]+/stylize)")


class BodyLimitMiddleware:
    """Refuses by the announced length, or while it reads."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = LARGE_BODY if LARGE_PATHS.fullmatch(scope["path"]) else SMALL_BODY
        detail = f"the body is larger than the {most // MIB} MiB that this resource takes"
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > most:
            await respond(TooLarge(detail))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, detail)  # the one kind of error that FastAPI passes on while it reads
            return message

        await self.app(scope, counted, send)
