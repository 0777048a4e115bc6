"""What every page shares: who looks, templates, errors as pages, headers that keep foreign scripts out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.catalogue import Catalogue
from orchestrator.objects import Objects
from orchestrator.problems import Problem
from orchestrator.scopes import Scope
from orchestrator.sessions import COOKIE, check_scope
from orchestrator.settings import Settings
from orchestrator.store.access import Access
from orchestrator.store.database import Database
from orchestrator.store.keys import Caller
from orchestrator.web.texts import FILTERS

STATIC = Path(__file__).parent / "static"


class Services(Protocol):
    """What pages need of the application's services."""

    @property
    def settings(self) -> Settings: ...
    @property
    def db(self) -> Database: ...
    @property
    def objects(self) -> Objects: ...
    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def access(self) -> Access: ...


class LoginNeeded(Exception):
    """No key, or one that does not count: the page goes to the login form."""


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _visitor(request: Request) -> Caller:
    secret = request.cookies.get(COOKIE)
    caller = None if secret is None else services_of(request).access.find(secret)
    if caller is None:
        raise LoginNeeded
    check_scope(caller, Scope.READ)
    return caller


Here = Annotated[Services, Depends(services_of)]
Visitor = Annotated[Caller, Depends(_visitor)]


class PageRoute(APIRoute):
    """A route that answers people: problems become pages, a missing key the login form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                response = await handle(request)
            except LoginNeeded:
                response = to_login(request)
            except Problem as problem:
                response = render(request, "problem.html", status=problem.status, problem=problem)
            response.headers.update(security_headers(services_of(request).settings))
            return response

        return page


def to_login(request: Request) -> Response:
    """The login form; a fragment's request has the whole page go there."""
    if "HX-Request" in request.headers:
        return Response(status_code=200, headers={"HX-Redirect": "/login"})
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(path, safe='')}", status_code=303)


def security_headers(settings: Settings) -> dict[str, str]:
    """Only our own scripts, styles and requests; pictures also from the object store."""
    store = urlsplit(settings.s3_public_url or settings.s3_url)
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        f"img-src 'self' blob: {store.scheme}://{store.netloc}; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one."""
    html = _templates().get_template(template).render(path=request.url.path, **values)
    return HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})


def wants_part(request: Request) -> bool:
    """True when htmx asks for what has changed on a page; false for a page, also one that it goes back to."""
    return request.headers.get("HX-Request-Type") == "partial"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["asset"] = asset
    return environment


@cache
def asset(name: str) -> str:
    """The address of a static file, which changes with its content."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def signed(services: Services, key: str) -> Response:
    """Sends a browser to the object store; it may remember where for half the time that the address holds."""
    lifetime_s = services.settings.presign_s // 2
    return RedirectResponse(
        services.objects.presigned_get(key), headers={"Cache-Control": f"private, max-age={lifetime_s}"}
    )
