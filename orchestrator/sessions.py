"""The web page's cookie: an API key that scripts cannot read and other sites cannot send; and what a key may do.

API and web page both know it; neither imports the other.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.problems import Forbidden
from orchestrator.scopes import Scope, text_of
from orchestrator.store.keys import Caller

COOKIE = "stylefoundry_key"
COOKIE_S = 30 * 24 * 3600
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_origin(request: Request, public_url: str | None) -> None:
    """Refuse what another site's page sends with our cookie. Raises Forbidden.

    public_url: of this service as browsers see it; None where that is the request's own `Host`.
    """
    origin = request.headers.get("origin")
    own = public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
    if origin is None or _origin_of(origin) != _origin_of(own):
        raise Forbidden(f"requests with a cookie must come from {own}, this one's Origin is {origin}")


def check_scope(caller: Caller, scope: Scope) -> None:
    """Raises Forbidden that names the scope which the key lacks."""
    if scope not in caller.scopes:
        challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
        raise Forbidden(f"this needs the scope {scope}, the key has: {text_of(caller.scopes)}", headers=challenge)


def set_cookie(response: Response, secret: str, *, secure: bool) -> None:
    """secure: the page was fetched by https."""
    response.set_cookie(COOKIE, secret, max_age=COOKIE_S, httponly=True, samesite="strict", secure=secure)


def clear_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _origin_of(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no address
        return "", url
    return parts.scheme, parts.netloc.lower()
