"""One attempt of one job, from its row to its end. Ray's actors and the tests come in through `run_attempt`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import structlog
import torch
from minio.error import S3Error

from orchestrator import traces
from orchestrator.objects import Corrupt, Missing
from orchestrator.states import ErrorType, Status
from orchestrator.store import attempts, comparisons, deadlines, queue
from orchestrator.store.queue import Moved, Ticket
from orchestrator.store.tables import Checkpoint, Job
from stylemodels.checkpoint import Damaged
from stylemodels.data import repetitions
from stylemodels.distributed import PeerLost
from stylemodels.train import Diverged, Run
from workers import checkpoints, comparison, ingest, speed
from workers.building import built
from workers.data import ShardSource
from workers.endings import Ended, StopAsked, StorageAway, Superseded, TimeIsUp
from workers.gang import LEFT_EXIT, MemberFailed, Seat, seated
from workers.inputs import Encoders
from workers.patience import Patience, brief, is_away
from workers.platform import Platform
from workers.publish import publish, put_log
from workers.spool import Spool
from workers.training import Training
from workers.work import Host, Work

log = structlog.get_logger()

SUPERSEDED = "superseded"
UNREACHABLE = "unreachable"
FAREWELL_S = 30.0  # how long a failed attempt waits for its uploads


def run_attempt(ticket: Ticket, platform: Platform, encoders: Encoders, host: Host, seat: Seat | None = None) -> str:
    """Do `ticket`'s attempt to its end in this process: train and publish, or ingest.

    seat: as rank 0 of a gang, whose other workers are `member.follow`.

    Everything is written under the ticket: an attempt that was given up can wake up and do no harm. Errors of the job
    are rows, never exceptions.

    Returns the job's status afterwards; "superseded" when a higher attempt exists or the job has ended without this
    one, "unreachable" when SQL stayed away: then a dispatcher ends the attempt.
    """
    patience = Patience(platform.settings.outage_s)
    try:
        job, ready, due_in_s = patience.call(partial(_read, ticket, platform))
    except StorageAway:
        return UNREACHABLE
    if job is None:
        return SUPERSEDED
    log.info("attempt_begins", job=job.id, attempt=job.attempt, kind=job.kind, task=f"{job.method}/{job.task}")
    with _told_apart(ticket), Spool(ticket, job, platform, patience, due_in_s=due_in_s) as spool:
        work = Work(ticket, job, ready, platform, encoders, host, patience, spool, seat)
        try:
            moved = _work_of(job)(work)
        except (Superseded, StopAsked):
            outcome = _leave(work)
        except Exception as error:
            outcome = _fail(work, error)
        else:
            outcome = moved.status.value
        platform.bus.tell(job.id)
        platform.bus.wake()
    log.info("attempt_over", job=job.id, attempt=job.attempt, outcome=outcome)
    return outcome


def _work_of(job: Job) -> Callable[[Work], Moved]:
    if job.kind == "ingest":
        return ingest.run
    return comparison.run if job.method == comparisons.PREFIX else train


@contextmanager
def _told_apart(ticket: Ticket) -> Iterator[None]:
    """Every log line of the block, by whatever library, names the job and the attempt; the block is a span."""
    name = {"attempt": ticket.attempt}
    with structlog.contextvars.bound_contextvars(job=ticket.job_id, **name):
        with traces.span("attempt", ticket.job_id, **name):
            yield
        traces.flush()


def train(work: Work) -> Moved:
    """Train to the end and publish. Raises Ended, and whatever is the job's error."""
    with built(work.job, work.platform, work.encoders, work.patience) as (method, task, sources, device):
        with seated(work.seat, device, work.platform.settings, give_up=partial(_end_lost, work)) as group:
            run = Run(task, seed=work.job.seed, device=device, group=group)
            if device.type == "cuda" and group.rank == 0:  # warm workers have measured the cores
                speed.tell_if_unknown(work.platform, device)
            _resume(work, run)
            run.agree()
            _begin(work, run, sources)
            training = Training(run, work.job, sources, work.spool)
            try:
                training.train()
            except (StopAsked, TimeIsUp) as asked:
                _keep_last_step(work, run, asked)
                raise
        work.spool.drain()
        return publish(work, task, method, training.finished_samples())


def _begin(work: Work, run: Run, sources: Mapping[str, ShardSource]) -> None:
    work.begin(step=run.step, total_steps=run.total_steps)
    begun = f"attempt {work.job.attempt}: steps {run.step + 1} to {run.total_steps}"
    workers = "" if run.group.size == 1 else f"{run.group.size} workers, each on "
    work.spool.log(f"{begun} on {workers}{run.device} with {torch.get_num_threads()} threads")
    for warning in repetitions(run.streams(), sources):
        work.spool.log(warning, "warning")


def _read(ticket: Ticket, platform: Platform) -> tuple[Job | None, list[Checkpoint], float | None]:
    """The job while the ticket counts, what it may resume from, and the seconds to its deadline."""
    with platform.db.read() as tx:
        job = attempts.job_of(tx, ticket)
        if job is None:
            return None, [], None
        return job, queue.ready_checkpoints(tx, job.id), deadlines.seconds_left(tx, job.id)


def _resume(work: Work, run: Run) -> None:
    """Restore the newest checkpoint that verifies. One that does not is listed as damaged."""
    for candidate in checkpoints.candidates(work.job, work.checkpoints):
        try:
            state = checkpoints.download(work.platform.objects, work.patience, candidate)
        except Damaged as error:
            work.spool.log(f"checkpoint of step {candidate.step} is damaged and was passed over: {error}", "warning")
            work.patience.call(partial(_mark_damaged, work.platform, candidate))
        else:
            run.restore(state)
            return


def _mark_damaged(platform: Platform, candidate: checkpoints.Candidate) -> None:
    with platform.db.write() as tx:
        queue.mark_damaged(tx, candidate.job_id, candidate.attempt, candidate.step)


def _keep_last_step(work: Work, run: Run, asked: StopAsked | TimeIsUp) -> None:
    """What was trained is kept, unless the job is cancelled."""
    if isinstance(asked, TimeIsUp) or asked.status is not Status.CANCELLING:
        work.spool.checkpoint(run.snapshot())
        work.spool.drain()


def _leave(work: Work) -> str:
    """Somebody else decides: grant the stop that was asked for, if there is one."""
    _keep_log(work)
    try:
        return work.patience.call(partial(_stop, work))
    except StorageAway:
        return UNREACHABLE


def _stop(work: Work) -> str:
    with work.platform.db.write() as tx:
        moved = queue.stop(tx, work.ticket)
        # Without a move this attempt may have ended the job before, in a COMMIT whose answer was lost.
        status = moved.status if moved is not None else attempts.ended_as(tx, work.ticket)
        return SUPERSEDED if status is None else status.value


def _fail(work: Work, error: Exception) -> str:
    """Tell why, with the last metrics and uploads, as far as the stores take them."""
    kind, message = told(error)
    level = log.info if isinstance(error, Ended) else log.warning
    level("attempt_failed", job=work.job.id, attempt=work.job.attempt, type=kind.value, error=message)
    if kind is ErrorType.INTERNAL:
        work.spool.log("".join(traceback.format_exception(error)).rstrip(), "error")
    else:
        work.spool.log(message, "error")
    if not work.spool.broken:
        with suppress(Ended):  # then nobody wants to hear it, and the next transaction says so
            work.spool.drain(limit_s=FAREWELL_S)
    _keep_log(work)
    try:
        moved = _ended(work, kind, message)
    except Exception as second:
        if is_away(second):
            return UNREACHABLE
        raise
    return SUPERSEDED if moved is None else moved.status.value


def _ended(work: Work, kind: ErrorType, message: str) -> Moved | None:
    with work.platform.db.write() as tx:
        if kind is ErrorType.LOST:
            return queue.give_back(tx, work.ticket, message) or queue.lost(tx, work.ticket, message)
        return queue.fail(tx, work.ticket, kind, message)


def _end_lost(work: Work, why: str) -> None:
    """Give the attempt up and end this process: the training thread may wait for a silent worker in native code."""
    try:
        _ended(work, ErrorType.LOST, why)
    except Exception as error:
        if not is_away(error):
            raise
    work.platform.bus.tell(work.job.id)
    work.platform.bus.wake()
    os._exit(LEFT_EXIT)


def _keep_log(work: Work) -> None:
    """The attempt's lines in S3, where S3 answers; SQL has them in any case."""
    try:
        put_log(work.platform.objects, work.job, work.spool.log_bytes())
    except Exception as error:
        if not is_away(error):
            raise
        log.warning("log_not_kept", job=work.job.id, attempt=work.job.attempt, error=brief(error))


def told(error: Exception) -> tuple[ErrorType, str]:
    """What a job's `error` says of an exception."""
    match error:
        case TimeIsUp():
            return ErrorType.TIMEOUT, str(error)
        case StorageAway() | Missing() | Corrupt() | Damaged() | S3Error():
            return ErrorType.STORAGE, brief(error)
        case MemberFailed():
            return error.kind, str(error)
        case PeerLost():
            return ErrorType.LOST, f"another worker is gone: {error}"
        case Diverged():
            return ErrorType.DIVERGED, str(error)
        case torch.OutOfMemoryError() | MemoryError():
            return ErrorType.OUT_OF_MEMORY, brief(error)
        case RuntimeError() if "can't allocate memory" in str(error):  # torch's CPU allocator has no class of its own
            return ErrorType.OUT_OF_MEMORY, brief(error)
        case ValueError():
            return ErrorType.INVALID, str(error)
        case _:
            return ErrorType.INTERNAL, brief(error)
