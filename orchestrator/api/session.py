"""The web page's session: a key traded for a cookie."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestrator.api.auth import CHALLENGE, UNKNOWN
from orchestrator.api.schemas import WRITES, Given, Text, problems
from orchestrator.api.services import Here
from orchestrator.problems import Unauthorized
from orchestrator.sessions import check_origin, clear_cookie, set_cookie

router = APIRouter(prefix="/v1/session", tags=["keys"])


class Login(Given):
    key: Text


@router.post("", status_code=204, responses=problems(*WRITES))
def log_in(body: Login, request: Request, response: Response, services: Here) -> None:
    """Trade an API key for an HttpOnly, SameSite=Strict cookie. Only from the service's own pages."""
    check_origin(request, services.settings.public_url)
    if services.access.find(body.key) is None:
        raise Unauthorized(UNKNOWN, headers=CHALLENGE)
    own = services.settings.public_url or str(request.url)
    set_cookie(response, body.key, secure=own.startswith("https:"))


@router.post("/end", status_code=204, responses=problems(*WRITES))
def log_out(request: Request, response: Response, services: Here) -> None:
    """Forget the cookie."""
    check_origin(request, services.settings.public_url)
    clear_cookie(response)
