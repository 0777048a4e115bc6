"""The application: parts made at start, routes by noun, problem documents for all that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from orchestrator import shelf
from orchestrator.api import (
    audit,
    bulk,
    comparisons,
    datasets,
    errors,
    estimates,
    events,
    fanouts,
    health,
    history,
    jobs,
    keys,
    methods,
    models,
    quota,
    session,
    stylize,
    sweeps,
    tenants,
    usage,
    webhooks,
)
from orchestrator.api.audit_entries import AuditMiddleware
from orchestrator.api.estimator import Estimator
from orchestrator.api.limits import BodyLimitMiddleware
from orchestrator.api.news import News
from orchestrator.api.rates import Rates
from orchestrator.api.schemas import PROBLEM_SCHEMA
from orchestrator.api.services import Services
from orchestrator.api.traffic import Traffic, TrafficMiddleware
from orchestrator.bus import Bus
from orchestrator.catalogue import read_catalogue
from orchestrator.objects import OUTAGES, REFUSALS, Objects
from orchestrator.settings import Settings
from orchestrator.store import migrate
from orchestrator.store.access import Access
from orchestrator.store.database import Database
from orchestrator.store.keys import ensure_admin
from orchestrator.telemetry import log
from orchestrator.web import comparison_pages, pages, sweep_pages

THREADS = 32  # requests at work at a time; each holds at most one connection to SQL
DESCRIPTION = """Trains neural style transfer models as jobs.

Every error is a problem document (RFC 9457). Ids are sortable, times RFC 3339 in UTC, lists come in pages. `POST`s that
create take an `Idempotency-Key`. Clients go by a job's `phase`: there may be new statuses.
"""

NOUNS = (
    bulk,
    estimates,
    jobs,
    fanouts,
    comparisons,
    sweeps,
    events,
    history,
    datasets,
    models,
    stylize,
    methods,
    keys,
    tenants,
    usage,
    quota,
    audit,
    webhooks,
    session,
    health,
    pages,
    sweep_pages,
    comparison_pages,
)  # in the order of the document


def create_app(settings: Settings) -> FastAPI:
    """The API and the web page over the services that `settings` name. Nothing is connected before the start."""
    registry = CollectorRegistry()
    app = FastAPI(
        title="stylefoundry",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.settings = settings
    app.state.registry = registry
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(AuditMiddleware)
    app.add_middleware(TrafficMiddleware, traffic=Traffic(registry))
    errors.install(app)
    for noun in NOUNS:
        app.include_router(noun.router)
    _describe_problems(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    db = Database(settings.database_url, pool_size=THREADS)
    bus = Bus(settings.redis_url.get_secret_value())
    catalogue = await asyncio.to_thread(read_catalogue, settings.cache_dir, settings.declared_classes)
    news = News(settings.redis_url.get_secret_value())
    estimator, rates = Estimator(db, catalogue), Rates(bus, settings)
    services = Services(settings, db, Objects(settings), bus, catalogue, Access(db), news, estimator, rates)
    await asyncio.to_thread(_check_schema, db)
    await asyncio.to_thread(_ensure_admin, services)
    app.state.services = services
    health.measure(app.state.registry, services)
    stocked = asyncio.create_task(_stock(services.objects))
    try:
        async with news.listening():
            yield
    finally:
        stocked.cancel()
        services.estimator.close()
        db.dispose()


async def _stock(objects: Objects) -> None:
    """Make the bucket and fill in the built-in models as soon as the object store answers; the API does not wait."""
    while True:
        try:
            await asyncio.to_thread(objects.ensure_bucket)
            await asyncio.to_thread(shelf.stock, objects)
        except (*OUTAGES, *REFUSALS) as error:
            log.warning("not_stocked", bucket=objects.bucket, error=str(error))
            await asyncio.sleep(1.0)
        else:
            return


def _check_schema(db: Database) -> None:
    with db.read() as tx:
        migrate.check(tx.connection())


def _ensure_admin(services: Services) -> None:
    if services.settings.admin_key is not None:
        with services.db.write() as tx:
            ensure_admin(tx, services.settings.admin_key.get_secret_value())


def _describe_problems(app: FastAPI) -> None:
    """Put the problem document's schema, which every route points to, into /openapi.json."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"]["Problem"] = PROBLEM_SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]
