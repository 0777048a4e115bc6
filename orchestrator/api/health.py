"""Is it alive, is it ready, how much is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.api.figures import Figures
from orchestrator.api.schemas import View
from orchestrator.api.services import Here, Services
from orchestrator.problems import MEDIA_TYPE, Unavailable
from orchestrator.store import jobs

router = APIRouter(tags=["health"])

PROBE_S = 2.0
AWAY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "SQL does not answer",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


class Alive(View):
    status: Literal["alive"]


class Parts(View):
    sql: bool
    redis: bool
    s3: bool
    ray: bool  # a dispatcher has seen the cluster lately


class Ready(View):
    status: Literal["ready", "degraded"]  # degraded: jobs are taken, but something is away
    parts: Parts


@router.get("/livez")
async def livez() -> Alive:
    """The process lives; nothing else is asked."""
    return Alive(status="alive")


@router.get("/readyz", responses=AWAY)
async def readyz(services: Here) -> Ready:
    """SQL answers; how the other parts are."""
    seen, redis, s3 = await asyncio.gather(
        _probe(lambda: _cluster(services)), _probe(services.bus.available), _probe(lambda: _bucket(services))
    )
    if seen is None:
        raise Unavailable("the database does not answer")
    parts = Parts(sql=True, redis=bool(redis), s3=bool(s3), ray=seen)
    return Ready(status="ready" if all((parts.redis, parts.s3, parts.ray)) else "degraded", parts=parts)


@router.get(
    "/metrics",
    response_class=Response,
    responses={**AWAY, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus"}},
)
async def metrics(request: Request) -> Response:
    """Requests, jobs, queue, attempts, workers and the cluster's room, for Prometheus."""
    text = await run_in_threadpool(generate_latest, request.app.state.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def measure(registry: CollectorRegistry, services: Services) -> None:
    """Let `registry` read what SQL knows whenever it is asked."""
    registry.register(Figures(services.db, services.bus))


async def _probe(ask: Callable[[], bool | None]) -> bool | None:
    """The answer, or None when there is none in time."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), PROBE_S)
    except TimeoutError:
        return None


def _cluster(services: Services) -> bool | None:
    try:
        with services.db.read() as tx:
            return jobs.cluster(tx).is_there
    except SQLAlchemyError:
        return None


def _bucket(services: Services) -> bool:
    return services.objects.available()
