"""A sweep as callers write and read it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.api.groups import GroupView
from orchestrator.api.job_views import JobCreate
from orchestrator.api.schemas import Given, Int64, Name, Text, View
from orchestrator.store import sweeps
from orchestrator.store.sweeps import TrialFacts
from orchestrator.store.tables import Group


class RangeGiven(Given):
    low: float = Field(ge=-1e15, le=1e15)
    high: float = Field(ge=-1e15, le=1e15)
    log: bool = Field(False, description="every factor is as likely, not every difference")


class AshaGiven(Given):
    """Asynchronous successive halving (arXiv:1810.05934)."""

    min_steps: int = Field(ge=1, le=2**40, description="steps after which trials are compared first")
    reduction: int = Field(3, ge=2, le=100, description="one of so many goes on, with so many times the steps")


class SweepCreate(Given):
    """Which settings to try, and how trials are compared."""

    name: Name | None = Field(None, description="the job's `name` where nothing is said")
    job: JobCreate = Field(description="what every trial has in common; model names are `{publish_as}-{trial}`")
    space: dict[Text, Any] = Field(
        description="setting (or seed) -> a list of values, or {low, high, log: false} (not in a grid)",
        json_schema_extra={"additionalProperties": {"type": ["array", "object"]}},
    )
    strategy: Literal["grid", "random", "asha"] = "random"
    trials: int | None = Field(None, ge=1, le=1000, description="of random and asha")
    metric: Text | None = Field(
        None, description="a term that steps return, or validation_…; its mean over the last tenth of the steps counts"
    )
    mode: Literal["min", "max"] = "min"
    asha: AshaGiven | None = None
    seed: Int64 = Field(0, description="of the choice of settings; the trainings' is the job's, or stands in the space")


class TrialView(View):
    number: int
    params: dict[str, Any]
    status: str = Field(description="of its job; waiting: others may still come below it; stopped: it ended early")
    reason: str | None = Field(description="why it was stopped")
    job: str = Field(description="its newest; GET /v1/jobs?sweep=… has all")
    rung: int
    step: int
    total_steps: int
    value: float | None = Field(description="of the metric, at its newest steps")
    values: list[float | None] = Field(description="at the end of each finished rung")
    model: str | None = Field(description="name@version")


class SweepView(GroupView):
    strategy: str
    metric: str | None
    mode: str
    space: dict[str, Any]
    rungs: list[int] = Field(description="steps at which trials are compared; empty: never")
    best: TrialView | None = Field(description="of those that came furthest, by the metric")


class SweepWithTrials(SweepView):
    trials: list[TrialView]


def sweep_view(group: Group, counted: GroupView, trials: list[TrialFacts]) -> SweepWithTrials:
    spec = group.spec
    best = sweeps.best_of(group, trials)
    return SweepWithTrials(
        **dict(counted),
        strategy=spec["strategy"],
        metric=spec["metric"],
        mode=spec["mode"],
        space=spec["space"],
        rungs=spec["rungs"],
        trials=[TrialView.model_validate(trial) for trial in trials],
        best=None if best is None else TrialView.model_validate(best),
    )
