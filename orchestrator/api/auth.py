"""Who asks: a bearer key, or the cookie that the web page got for one."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.api.services import Here
from orchestrator.problems import Forbidden, Unauthorized
from orchestrator.sessions import COOKIE, SAFE_METHODS, check_origin
from orchestrator.store.keys import Caller as KeyHolder

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="stylefoundry"'}

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="`Authorization: Bearer sf_…`")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="session", description="what `POST /v1/session` set")


async def _caller(
    request: Request,
    services: Here,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> KeyHolder:
    secret = bearer.credentials if bearer is not None else cookie
    if secret is None:
        raise Unauthorized("give an API key: Authorization: Bearer sf_…", headers=CHALLENGE)
    if bearer is None and request.method not in SAFE_METHODS:
        check_origin(request, services.settings.public_url)
    # Only once a second and key does this leave the event loop: the lookup in SQL blocks.
    caller = services.access.remembered(secret) or await run_in_threadpool(services.access.look_up, secret)
    if caller is None:
        raise Unauthorized("this API key is unknown or was revoked", headers=CHALLENGE)
    return caller


async def _administrator(caller: Caller) -> KeyHolder:
    if not caller.admin:
        raise Forbidden("keys and tenants are an administrator's affair")
    return caller


Caller = Annotated[KeyHolder, Depends(_caller)]
Administrator = Annotated[KeyHolder, Depends(_administrator)]
