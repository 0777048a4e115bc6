"""Sweeps in SQL: where their trials stand, and who goes on.

A trial's rung is a job of its own that continues the rung before from its last checkpoint, so every figure belongs to
exactly the step that it is compared at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.ids import new_id
from orchestrator.states import Phase, Status, phase_of
from orchestrator.store import groups, jobs, retries
from orchestrator.store.tables import Group, Job, Metric
from orchestrator.sweeps import Trial, is_stopped, promotions, ranking, value_at

TAIL = 0.1  # a trial's value is the metric's mean over the last tenth of its steps
MOST_PRIORITY = 1_000_000


class Standing(NamedTuple):
    """A trial with the job that is its newest."""

    trial: Trial
    job: Job
    newest: float | None  # the metric's mean over the last tenth of the steps that are done


class TrialFacts(NamedTuple):
    """A trial as it is shown."""

    number: int
    params: Mapping[str, Any]
    status: str  # of its job; waiting: others may still come below it; stopped: it ended early
    reason: str | None  # why it was stopped
    job: str
    rung: int
    step: int
    total_steps: int
    value: float | None
    values: Sequence[float | None]  # at the end of each finished rung
    model: str | None


def facts(tx: Session, group: Group) -> list[TrialFacts]:
    """Every trial, in the order of numbers."""
    found = standings(tx, group)
    trials = [standing.trial for standing in found]
    return [_facts(group, standing, trials) for standing in found]


def best_of(group: Group, trials: Sequence[TrialFacts]) -> TrialFacts | None:
    """The best at the highest rung that any trial has finished with a value."""
    mine = [Trial(t.number, t.rung, finished=False, active=False, values=tuple(t.values)) for t in trials]
    for rung in reversed(range(max((len(trial.values) for trial in mine), default=0))):
        if order := ranking(mine, rung, group.spec["mode"]):
            return next(trial for trial in trials if trial.number == order[0].number)
    return None


def _facts(group: Group, standing: Standing, trials: Sequence[Trial]) -> TrialFacts:
    trial, job = standing.trial, standing.job
    status, reason = _status(group, standing, trials)
    return TrialFacts(
        number=trial.number,
        params=group.spec["trials"][trial.number - 1],
        status=status,
        reason=reason,
        job=job.id,
        rung=trial.rung,
        step=job.step,
        total_steps=job.total_steps,
        value=standing.newest,
        values=trial.values,
        model=f"{job.publish_as}@{job.model_version}" if job.model_version is not None else None,
    )


def _status(group: Group, standing: Standing, trials: Sequence[Trial]) -> tuple[str, str | None]:
    """A trial that ended below the top has not succeeded: it waits for others, or was stopped."""
    spec, trial = group.spec, standing.trial
    rungs: list[int] = spec["rungs"]
    if standing.job.status != Status.SUCCEEDED or trial.rung >= len(rungs) - 1:
        return standing.job.status, None
    if group.cancelled_at is not None:
        return "stopped", "the sweep was cancelled"
    if value_at(trial, trial.rung) is None:
        return "stopped", f"it has no metric {spec['metric']!r} at step {rungs[trial.rung]}"
    if not is_stopped(trial, trials, rungs=len(rungs), reduction=spec["reduction"], mode=spec["mode"]):
        return "waiting", None
    order = [other.number for other in ranking(trials, trial.rung, spec["mode"])]
    place = f"place {order.index(trial.number) + 1} of {len(order)} by {spec['metric']}"
    return "stopped", f"{place} at step {rungs[trial.rung]}"


def standings(tx: Session, group: Group) -> list[Standing]:
    """Every trial, in the order of numbers."""
    found = list(tx.scalars(select(Job).where(Job.group_id == group.id).order_by(Job.trial, Job.rung, Job.id)))
    values = _values(tx, group, found)
    again = {(job.parent, job.rung) for job in found}
    by_trial: dict[int, list[Job]] = {}
    for job in found:
        if (job.id, job.rung) not in again and job.trial is not None:  # not done again within its rung
            by_trial.setdefault(job.trial, []).append(job)
    return [_standing(number, rungs, values) for number, rungs in by_trial.items()]


def _standing(number: int, rungs: Sequence[Job], values: Mapping[str, float]) -> Standing:
    newest = rungs[-1]
    finished = newest.status == Status.SUCCEEDED
    done = rungs if finished else rungs[:-1]
    trial = Trial(
        number,
        rung=newest.rung or 0,
        finished=finished,
        active=phase_of(newest.status) is not Phase.TERMINAL,
        values=tuple(values.get(job.id) for job in done),
    )
    return Standing(trial, newest, values.get(newest.id))


def _values(tx: Session, group: Group, found: Sequence[Job]) -> dict[str, float]:
    """Job -> the metric over its last steps; a retry that had no step left to do has what it started from."""
    if (metric := group.spec["metric"]) is None:
        return {}
    query = (
        select(Metric.job_id, func.avg(Metric.value))
        .join(Job, Job.id == Metric.job_id)
        .where(Job.group_id == group.id, Metric.name == metric, Metric.step > (1 - TAIL) * Job.step)
        .group_by(Metric.job_id)
    )
    values = {row[0]: row[1] for row in tx.execute(query)}
    for job in found:  # parents come first
        if job.id not in values and job.parent in values and job.status == Status.SUCCEEDED:
            values[job.id] = values[job.parent]
    return values


def promote(tx: Session, group_id: str) -> list[str]:
    """Let those trials of a sweep go on that the rule names now; the new jobs.

    Whoever decides holds the group's row, so nobody is promoted twice.
    """
    group = groups.held(tx, group_id)
    if group is None or group.cancelled_at is not None:
        return []
    standing = {s.trial.number: s for s in standings(tx, group)}
    spec = group.spec
    rule = {"rungs": len(spec["rungs"]), "reduction": spec["reduction"], "mode": spec["mode"]}
    chosen = promotions([s.trial for s in standing.values()], **rule)
    made = [_next_rung(tx, standing[p.number].job, p.to, spec["rungs"][p.to]) for p in chosen]
    return [job_id for job_id in made if job_id is not None]


def _next_rung(tx: Session, job: Job, rung: int, steps: int) -> str | None:
    """None where the last checkpoint was deleted: the trial ends here."""
    start = retries.start_of_retry(tx, job)
    if start is None or start["step"] != job.total_steps:
        return None
    job_id = new_id("job")
    config: dict[str, Any] = job.config | {"steps": steps}
    priority = min(job.priority + 1, MOST_PRIORITY)  # before trials that have not begun
    jobs.submit(
        tx,
        retries.again(
            job, job_id, config=config, total_steps=steps, start_from=start, rung=rung, priority=priority,
            depends_on=job.depends_on,
        ),
    )  # fmt: skip
    return job_id
