"""A worker of a gang beside rank 0: it computes its part of every step and writes nothing."""

from __future__ import annotations

from functools import partial

import structlog

from orchestrator.store import attempts
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Job
from stylemodels.distributed import PeerLost
from stylemodels.train import Run
from workers.attempt import told
from workers.building import built
from workers.endings import Superseded
from workers.gang import Seat, end_process, seated
from workers.inputs import Encoders
from workers.patience import Patience
from workers.platform import Platform
from workers.training import each_step

log = structlog.get_logger()

LEFT = "left"
FAILED = "failed"


def follow(ticket: Ticket, platform: Platform, encoders: Encoders, seat: Seat) -> str:
    """Do this worker's part of an attempt until rank 0 has enough, or is gone.

    Returns "left", or "failed" for an error of this worker: rank 0 is told which, and tells the world.
    """
    log.info("member_begins", job=ticket.job_id, attempt=ticket.attempt, rank=seat.rank)
    outcome = LEFT
    try:
        _train(ticket, platform, encoders, seat)
    except (PeerLost, Superseded) as error:
        log.info("member_dismissed", job=ticket.job_id, rank=seat.rank, why=str(error))
    except Exception as error:
        kind, message = told(error)
        log.warning("member_failed", job=ticket.job_id, rank=seat.rank, type=kind.value, error=message)
        seat.meeting.say_failed(seat.rank, kind, message)
        outcome = FAILED
    return outcome


def _train(ticket: Ticket, platform: Platform, encoders: Encoders, seat: Seat) -> None:
    patience = Patience(platform.settings.outage_s)
    job = patience.call(partial(_job, ticket, platform))
    if job is None:
        raise Superseded
    with (
        built(job, platform, encoders, patience) as (_, task, sources, device),
        seated(seat, device, platform.settings, give_up=end_process) as group,
    ):
        run = Run(task, seed=job.seed, device=device, group=group)
        run.agree()
        for batch in each_step(run, job, sources, _not_asked):
            run.advance(batch)


def _job(ticket: Ticket, platform: Platform) -> Job | None:
    with platform.db.read() as tx:
        return attempts.job_of(tx, ticket)


def _not_asked() -> None:
    """Rank 0 alone decides when it is over."""
