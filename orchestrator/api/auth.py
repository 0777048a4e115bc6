"""Who asks, and whether it may: a bearer key, or the cookie that the web page got for one.

A route says in its signature which scope it needs: `caller: Reader`, `Submitter`, …; `/openapi.json` repeats it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from orchestrator.api.audit_entries import begin_entry
from orchestrator.api.rates import Kind
from orchestrator.api.services import Here
from orchestrator.problems import Unauthorized
from orchestrator.scopes import Scope
from orchestrator.sessions import COOKIE, SAFE_METHODS, check_origin, check_scope
from orchestrator.store.keys import Caller as KeyHolder

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="stylefoundry"'}
UNKNOWN = "this API key is unknown, was revoked or has expired"

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="`Authorization: Bearer sf_…`")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="session", description="what `POST /v1/session` set")


async def _holder(
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
        raise Unauthorized(UNKNOWN, headers=CHALLENGE)
    return caller


async def _permitted(
    request: Request, services: Here, needed: SecurityScopes, caller: Annotated[KeyHolder, Depends(_holder)]
) -> KeyHolder:
    kind = Kind.STYLIZES if Scope.STYLIZE in needed.scopes else Kind.of(request.method)
    if not services.rates.take(caller.key_id, kind):  # only now and then does this leave the event loop
        await run_in_threadpool(services.rates.ask, caller.key_id, kind)
    if request.method not in SAFE_METHODS:
        begin_entry(request, caller)
    for scope in needed.scopes:
        check_scope(caller, Scope(scope))
    return caller


Reader = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.READ.value])]
Submitter = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.SUBMIT.value])]
Writer = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.WRITE.value])]
Drawer = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.STYLIZE.value])]
Manager = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.MANAGE.value])]
Administrator = Annotated[KeyHolder, Security(_permitted, scopes=[Scope.ADMIN.value])]
Caller = Annotated[KeyHolder, Security(_permitted, scopes=[])]  # any key: for what tells nothing of a tenant's
