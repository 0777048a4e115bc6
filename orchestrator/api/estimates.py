"""What a job would take, before anybody submits it."""

from __future__ import annotations

import threading
from concurrent.futures import TimeoutError as TooLate

from fastapi import APIRouter
from pydantic import Field

from orchestrator.api.auth import Submitter
from orchestrator.api.job_views import JobCreate
from orchestrator.api.schemas import WRITES, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import new_job
from orchestrator.counting import Busy, Counted
from orchestrator.ids import new_id
from orchestrator.problems import Unavailable
from orchestrator.store import jobs
from orchestrator.store.jobs import NewJob

router = APIRouter(prefix="/v1", tags=["jobs"])

PATIENCE_S = 90.0  # for a count: it takes a process that imports torch
MOST_WAITING = 4  # requests that wait for a count: each holds one of the threads that answer everything else

_waiting = threading.Semaphore(MOST_WAITING)


class EstimateView(View):
    steps: int
    flops: int | None = Field(description="of all steps; null where a step's work depends on values")
    bytes: int | None = Field(description="read and written by all operations of all steps")
    memory_bytes: int | None = Field(description="weights, optimiser and activations at the worst moment of a step")
    seconds: float | None = Field(description="at work; null as long as no worker has measured such a device")
    low: float | None = Field(description="one of ten past runs was faster")
    high: float | None = Field(description="one of ten past runs was slower")
    basis: str = Field(description="what the seconds come from")


@router.post("/jobs:estimate", responses=problems(403, *WRITES))
def estimate(body: JobCreate, caller: Submitter, services: Here) -> EstimateView:
    """Steps, arithmetic, memory and time of a job, without submitting it: checked and completed as at submit.

    The first question about a new set of sizes takes some seconds: the steps are counted.
    """
    with services.db.read() as tx:
        new = new_job(tx, new_id("job"), caller.tenant, body, services.catalogue, jobs.cluster(tx))
        counted = services.estimator.counted(tx, new)
    return _view(services, new, counted if counted is not None else _count(services, new))


def _count(services: Services, new: NewJob) -> Counted:
    """Raises Unavailable when too many wait for theirs, or it takes too long."""
    if not _waiting.acquire(blocking=False):
        raise Unavailable("other estimates are being counted", retry_after_s=5)
    try:
        return services.estimator.count(new).result(PATIENCE_S)
    except (Busy, TooLate) as error:
        raise Unavailable("other estimates are being counted", retry_after_s=10) from error
    finally:
        _waiting.release()


def _view(services: Services, new: NewJob, counted: Counted) -> EstimateView:
    work = services.estimator.work(new, counted)
    with services.db.read() as tx:
        made = services.estimator.made(tx, new, counted)
    basis = "no worker has measured such a device yet" if work is not None else "its steps cannot be counted"
    return EstimateView(
        steps=new.total_steps,
        flops=work.flops if work else None,
        bytes=work.bytes if work else None,
        memory_bytes=work.peak_bytes if work else None,
        seconds=made.seconds if made else None,
        low=made.low if made else None,
        high=made.high if made else None,
        basis=made.basis if made else basis,
    )
