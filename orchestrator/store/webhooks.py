"""Webhooks: changes of status that somebody wants to be told, and with which secret they are signed.

A delivery is written in the transaction of the change (`queue.move`, `claims`), so it can neither be lost nor be wrong.
A dispatcher takes it for a while (`claim_due`); one that dies leaves it to the next: at least once, under the same id.
"""

from __future__ import annotations

import base64
import random
import secrets
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, case, delete, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.states import TERMINAL
from orchestrator.store.database import db_now
from orchestrator.store.events import NewEvent
from orchestrator.store.tables import WebhookDelivery, WebhookSecret

ENDS = tuple(status.value for status in TERMINAL)  # what is told where nothing else is said
BACKOFF_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)  # after the n-th try
SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32

INSERT_DELIVERY = insert(cast(Table, WebhookDelivery.__table__)).values(
    status="pending", tries=0, next_at=db_now(), created_at=db_now()
)


class Due(NamedTuple):
    """A delivery that is tried now."""

    id: str
    tenant_id: str
    event: str
    data: dict[str, Any]
    url: str
    tries: int  # with this one
    created_at: float


class Outcome(NamedTuple):
    """What came of a try."""

    answer: int | None  # status, if there was an answer
    error: str | None  # None: delivered
    final: bool = False  # no other try would help


def announce(tx: Session, job_id: str, job: Any, event: NewEvent) -> None:
    """Note a `status` event for whoever wants to be told.

    job: the changed row: tenant_id, name, attempt, events (the event's id), webhook.
    """
    webhook = job.webhook
    if webhook is None or event.body["status"] not in webhook["events"]:
        return
    data = {"job": job_id, "name": job.name, "attempt": job.attempt, "event": job.events, **event.body}
    row = {
        "id": new_id("delivery"),
        "tenant_id": job.tenant_id,
        "job_id": job_id,
        "event": f"job.{event.body['status']}",
        "data": data,
        "url": webhook["url"],
    }
    tx.execute(INSERT_DELIVERY, row)


# --- sending ----------------------------------------------------------------------------------------------------------

_DUE = (WebhookDelivery.status == "pending", WebhookDelivery.next_at <= db_now())


def any_due(tx: Session, *, without: Collection[str] = ()) -> bool:
    """Whether something is to be sent now, tenants `without` aside."""
    query = select(WebhookDelivery.id).where(*_DUE, WebhookDelivery.tenant_id.not_in(without))
    return tx.scalar(query.limit(1)) is not None


def claim_due(tx: Session, *, limit: int, hold_s: float, without: Collection[str] = ()) -> list[Due]:
    """Take up to `limit` deliveries for `hold_s` seconds; a second dispatcher takes others."""
    query = select(WebhookDelivery.id).where(*_DUE, WebhookDelivery.tenant_id.not_in(without))
    query = query.order_by(WebhookDelivery.next_at).limit(limit)
    ids = tx.scalars(query.with_for_update(skip_locked=True)).all()
    take = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(ids), *_DUE)
        .values(next_at=db_now() + hold_s, tries=WebhookDelivery.tries + 1)
        .returning(*(getattr(WebhookDelivery, field) for field in Due._fields))
    )
    return [Due(*row) for row in tx.execute(take)] if ids else []


def conclude(tx: Session, due: Due, outcome: Outcome) -> None:
    """Write what came of a try, unless somebody has tried again meanwhile."""
    values: dict[str, Any] = {"answer": outcome.answer, "error": outcome.error}
    if outcome.error is None:
        values |= {"status": "delivered", "ended_at": db_now()}
    elif outcome.final or due.tries > len(BACKOFF_S):
        values |= {"status": "dead", "ended_at": db_now()}
    else:
        wait_s = BACKOFF_S[due.tries - 1] * random.uniform(1.0, 1.2)  # what failed together does not come together
        values["next_at"] = db_now() + wait_s
    mine = (WebhookDelivery.id == due.id, WebhookDelivery.tries == due.tries, WebhookDelivery.status == "pending")
    tx.execute(update(WebhookDelivery).where(*mine).values(**values))


# --- looking ----------------------------------------------------------------------------------------------------------


def page(
    tx: Session, tenant: str, *, status: str | None, job: str | None, before: str | None, limit: int
) -> Sequence[WebhookDelivery]:
    """A tenant's deliveries, newest first, those with ids below `before`."""
    query = select(WebhookDelivery).where(WebhookDelivery.tenant_id == tenant)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    if job is not None:
        query = query.where(WebhookDelivery.job_id == job)
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    return tx.scalars(query.order_by(WebhookDelivery.id.desc()).limit(limit)).all()


def find(tx: Session, tenant: str, delivery_id: str) -> WebhookDelivery | None:
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.tenant_id == tenant)
    return tx.scalars(query).one_or_none()


def send_again(tx: Session, delivery_id: str) -> None:
    """Try a delivery from the beginning, now; whoever is trying it at this moment has the last word no longer."""
    values = {"status": "pending", "tries": 0, "next_at": db_now(), "error": None, "answer": None, "ended_at": None}
    tx.execute(update(WebhookDelivery).where(WebhookDelivery.id == delivery_id).values(**values))


def forget_ended(tx: Session, *, age_s: float) -> None:
    """Drop what was delivered or given up longer ago than this."""
    old = (WebhookDelivery.status.in_(("delivered", "dead")), WebhookDelivery.ended_at < db_now() - age_s)
    tx.execute(delete(WebhookDelivery).where(*old))


# --- secrets ----------------------------------------------------------------------------------------------------------


def new_secret(tx: Session, tenant: str, *, overlap_s: float) -> str:
    """A secret that signs from now on; those before it sign along for `overlap_s` seconds."""
    until = db_now() + overlap_s
    sooner = case((WebhookSecret.expires_at < until, WebhookSecret.expires_at), else_=until)
    tx.execute(update(WebhookSecret).where(WebhookSecret.tenant_id == tenant).values(expires_at=sooner))
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    tx.add(WebhookSecret(id=new_id("secret"), tenant_id=tenant, secret=secret, created_at=db_now()))
    tx.flush()
    return secret


def secrets_of(tx: Session, tenant: str) -> list[str]:
    """What signs now, the newest first."""
    valid = or_(WebhookSecret.expires_at.is_(None), WebhookSecret.expires_at > db_now())
    query = select(WebhookSecret.secret).where(WebhookSecret.tenant_id == tenant, valid)
    return list(tx.scalars(query.order_by(WebhookSecret.id.desc())))


def has_secret(tx: Session, tenant: str) -> bool:
    return bool(tx.scalar(select(exists().where(WebhookSecret.tenant_id == tenant))))
