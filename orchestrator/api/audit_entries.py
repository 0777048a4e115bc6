"""An audit entry for every changing request, whatever becomes of it."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.store import audit
from orchestrator.store.audit import Entry
from orchestrator.store.database import Database, before_commit
from orchestrator.store.keys import Caller
from orchestrator.telemetry import log

PLACE = "stylefoundry.audit"  # in the scope: a list that holds the request's entry
NOT_WRITTEN = (429,)  # a flood must not fill the log


def begin_entry(request: Request, caller: Caller) -> None:
    """From now on it is known who asks; the first transaction that is committed takes the entry along."""
    route = request.scope["route"]
    entry = Entry(
        tenant_id=caller.tenant,
        key_id=caller.key_id,
        verb=request.method,
        route=route.path,
        resource="/".join(str(value) for value in request.path_params.values()),
        status=route.status_code or 200,
        ip=request.client.host if request.client is not None else None,
    )
    request.scope[PLACE].append(entry)
    audit.begin(entry)


class AuditMiddleware:
    """Writes what no transaction has taken along, or what was answered otherwise. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: list[Entry] = []
        scope[PLACE] = begun
        answered = 500

        async def listening(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, listening)
        finally:
            for entry in begun:
                if entry.written != answered and answered not in NOT_WRITTEN:
                    await run_in_threadpool(_write, scope["app"].state.services.db, audit.failed(entry, answered))


def _write(db: Database, entry: Entry) -> None:
    """Raises nothing: the answer has been given. What the database does not take stands in the log."""
    before_commit.set(None)  # in this thread: this transaction is not the request's own
    try:
        with db.write() as tx:
            audit.write(tx, entry)
    except SQLAlchemyError as error:
        log.error("audit_entry_lost", error=str(error).partition("\n")[0], **vars(entry))
