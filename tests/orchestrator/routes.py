"""Every route of the application, found by walking it: what a new route owes is asked of it on arrival."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from orchestrator.api import auth

WEB = "orchestrator.web."


def routes_of(app: FastAPI) -> list[APIRoute]:
    """All routes, of all routers, however they were put in."""
    return list(_walk(app.routes))


def api_routes(app: FastAPI) -> list[APIRoute]:
    """Those of the API: not the web page's."""
    return [route for route in routes_of(app) if not route.endpoint.__module__.startswith(WEB)]


def verbs(route: APIRoute) -> list[str]:
    return sorted(route.methods or ())


def scope_of(route: APIRoute) -> str | None:
    """The scope that a route declares; `any` where every key may come, None where no key is asked for."""
    needed = [dependant for dependant in _flat(route.dependant) if dependant.call is auth._permitted]
    if not needed:
        return None
    (permitted,) = needed
    scopes = permitted.own_oauth_scopes or []
    assert len(scopes) <= 1, route.path
    return scopes[0] if scopes else "any"


def _walk(routes: list[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from _walk(router.routes)


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    for inner in dependant.dependencies:
        yield inner
        yield from _flat(inner)
