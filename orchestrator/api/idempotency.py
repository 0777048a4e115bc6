"""`Idempotency-Key`: a `POST` that is sent again makes nothing again."""

from __future__ import annotations

import hashlib
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session

from orchestrator.problems import invalid_field
from orchestrator.store import audit, idempotency


class Key(NamedTuple):
    """The caller's key, and the request that came with it."""

    key: str
    fingerprint: str  # sha256 of verb, path and body


async def _key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(pattern=r"^[!-~]{1,255}$", description="same key and body within 24 h: same status and resource"),
    ] = None,
) -> Key | None:
    if idempotency_key is None:
        return None
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())  # has been read already
    return Key(idempotency_key, digest.hexdigest())


IdempotencyKey = Annotated[Key | None, Depends(_key)]


def made_before(tx: Session, tenant: str, key: Key | None, *, status: int, resource: str) -> str | None:
    """Note under `key` that this transaction makes `resource`; what an earlier request made, if there was one.

    Raises Invalid when the key came with another request.
    """
    audit.note_made(resource)
    if key is None:
        return None
    made = idempotency.claim(tx, tenant, key.key, fingerprint=key.fingerprint, status=status, resource=resource)
    if made is None:
        return None
    if made.fingerprint != key.fingerprint:
        raise invalid_field("/header/idempotency-key", "was used for another request within a day: take a new one")
    audit.note_made(made.resource)
    return made.resource
