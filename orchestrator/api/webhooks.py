"""Webhooks: what a job says about them, what became of the deliveries, and the secret that signs them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BeforeValidator, Field
from sqlalchemy.orm import Session

from orchestrator.api.auth import Manager, Reader, Submitter
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import WRITES, Given, Instant, Text, View, problems
from orchestrator.api.services import Here
from orchestrator.ids import new_id
from orchestrator.problems import NotFound, invalid_field
from orchestrator.settings import Settings
from orchestrator.states import Status
from orchestrator.store import webhooks
from orchestrator.targets import check_given, target_of

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

DAY_S = 86_400


def _told(status: str) -> str:
    if status not in list(Status):
        raise ValueError(f"{status!r} is no status; there are {', '.join(Status)}")
    return status


def _form(url: str) -> str:
    target_of(url)
    return url


TargetUrl = Annotated[Text, AfterValidator(_form), Field(description="http or https, an address of the internet")]
StatusName = Annotated[Text, AfterValidator(_told), Field(json_schema_extra={"enum": list(Status)})]


class WebhookGiven(Given):
    """Who is told, by a signed `POST`, when the job comes into one of these states."""

    url: TargetUrl
    events: Annotated[list[StatusName], Field(min_length=1, max_length=len(Status))] = Field(
        list(webhooks.ENDS), description="statuses; nothing said: those in which a job ends"
    )


def _as_object(given: Any) -> Any:
    return {"url": given} if isinstance(given, str) else given


Webhook = Annotated[WebhookGiven, BeforeValidator(_as_object, json_schema_input_type=TargetUrl | WebhookGiven)]


class WebhookView(View):
    url: str
    events: list[str]


class DeliveryView(View):
    id: str = Field(description="`webhook-id` of every try")
    job_id: str
    event: str  # job.succeeded, …
    url: str
    status: str = Field(description="pending | delivered | dead")
    tries: int
    answer: int | None = Field(description="status of the last answer")
    error: str | None = Field(description="of the last try")
    created_at: Instant
    next_at: Instant = Field(description="of a pending one: when it is tried next")
    ended_at: Instant | None


class SecretWanted(Given):
    overlap_s: int = Field(DAY_S, ge=0, le=30 * DAY_S, description="so long do earlier secrets sign along")


class SecretView(View):
    """Shown once: the answer to a repeated request has null."""

    secret: str | None


def kept(given: WebhookGiven | None) -> dict[str, Any] | None:
    """What a job's row holds."""
    return None if given is None else {"url": given.url, "events": list(dict.fromkeys(given.events))}


def check_target(settings: Settings, given: WebhookGiven | None) -> None:
    """Raises Invalid for what is known to be no address of the internet; names are asked for when they are used."""
    if given is None:
        return
    try:
        check_given(given.url, private=settings.webhook_private)
    except ValueError as error:
        raise invalid_field("/webhook/url", str(error)) from error


def check_secret(tx: Session, tenant: str, given: WebhookGiven | None) -> None:
    """Raises Invalid when there is nothing to sign with: whoever is told could not believe it."""
    if given is not None and not webhooks.has_secret(tx, tenant):
        raise invalid_field("/webhook", "there is no secret to sign with yet: POST /v1/webhooks/secret makes one")


@router.post("/secret", status_code=201, responses=problems(*WRITES))
def new_secret(
    caller: Manager, services: Here, response: Response, body: SecretWanted | None = None, key: IdempotencyKey = None
) -> SecretView:
    """Make the secret that signs the tenant's webhooks from now on; those before it sign along for a while.

    Signatures are those of Standard Webhooks: HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`.
    """
    secret: str | None = None
    with services.db.write() as tx:
        if made_before(tx, caller.tenant, key, status=201, resource=new_id("secret")) is None:
            secret = webhooks.new_secret(tx, caller.tenant, overlap_s=(body or SecretWanted()).overlap_s)
    response.headers["Cache-Control"] = "no-store"
    return SecretView(secret=secret)


@router.get("/deliveries", responses=problems())
def list_deliveries(
    caller: Reader,
    services: Here,
    status: Annotated[Literal["pending", "delivered", "dead"] | None, Query()] = None,
    job: Annotated[Text | None, Query(description="id of a job")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[DeliveryView]:
    """Deliveries, newest first; they are kept for 30 days after their end. `status=dead`: those that were given up."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = webhooks.page(tx, caller.tenant, status=status, job=job, before=place, limit=limit + 1)
    page = cut(found, limit, lambda delivery: [delivery.id])
    return Listing(data=[DeliveryView.model_validate(row) for row in page.rows], next_cursor=page.next_cursor)


@router.post("/deliveries/{id}/redeliver", responses=problems(404))
def redeliver(id: str, caller: Submitter, services: Here) -> DeliveryView:
    """Send it once more, now, under the same id and with as many tries as a new one."""
    with services.db.write() as tx:
        found = webhooks.find(tx, caller.tenant, id)
        if found is None:
            raise NotFound(f"there is no delivery {id!r}")
        webhooks.send_again(tx, id)
        tx.refresh(found)
    services.bus.wake()
    return DeliveryView.model_validate(found)
