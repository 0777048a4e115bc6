"""`Idempotency-Key`: a `POST` that is sent again makes nothing again."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session

from orchestrator.problems import invalid_field
from orchestrator.store import idempotency


class Repeatable:
    """A request's key, and what tells its body from another one's."""

    def __init__(self, key: str | None, fingerprint: str) -> None:
        self._key, self._fingerprint = key, fingerprint

    def made_before(self, tx: Session, tenant: str, resource: str, *, status: int) -> str | None:
        """What an earlier request with this key made; None when `resource` is to be made now, in this transaction.

        Raises Invalid when the key was used for something else within a day.
        """
        if self._key is None:
            return None
        made = idempotency.claim(tx, tenant, self._key, fingerprint=self._fingerprint, status=status, resource=resource)
        if made is None:
            return None
        if made.fingerprint != self._fingerprint:
            raise invalid_field("/header/idempotency-key", "was used for another request within the last 24 hours")
        return made.resource


async def _repeatable(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(pattern=r"^[\x21-\x7e]+$", max_length=255, description="safe to send again for 24 hours")
    ] = None,
) -> Repeatable:
    if idempotency_key is None:
        return Repeatable(None, "")
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return Repeatable(idempotency_key, digest.hexdigest())


Once = Annotated[Repeatable, Depends(_repeatable)]
