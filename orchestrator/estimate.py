"""How long a job will take: what its steps cost × how fast the device is, corrected by how past runs came out.

Pure functions; where the figures come from is `store/costs.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

FEWEST_RUNS = 3  # below, past runs prove nothing
ALIKE = 10.0  # past runs count that were estimated within this factor: start and publishing weigh more in short jobs
BAND_COUNTED = (0.5, 3.0)  # of an estimate that no past run corrects
NOT_IN_A_STEP = ("preview_", "checkpoint_", "onnx", "steps")  # settings, by how they begin


class PhaseCost(NamedTuple):
    """Of one step."""

    name: str
    flops: int
    bytes: int
    peak_bytes: int


class Speed(NamedTuple):
    """Of one core, or one GPU."""

    flops_per_s: float
    bytes_per_s: float


class Work(NamedTuple):
    """Of a whole job."""

    steps: int
    flops: int
    bytes: int
    peak_bytes: int


class Past(NamedTuple):
    """A run that succeeded: what was counted for it, uncorrected, and what it took."""

    raw_s: float
    actual_s: float


class Estimate(NamedTuple):
    raw_s: float  # before the correction
    seconds: float
    low: float
    high: float
    basis: str


def work_of(costs: Sequence[PhaseCost], phases: Sequence[tuple[str, int]], *, done: int = 0) -> Work | None:
    """All steps after the first `done`, over the phases in order; None where a phase was not counted.

    phases: name and steps.
    """
    by_name = {cost.name: cost for cost in costs}
    steps = flops = moved = peak = 0
    for name, count in phases:
        left = max(0, count - done)
        done = max(0, done - count)
        if left == 0:
            continue
        if name not in by_name:
            return None
        cost = by_name[name]
        steps, flops, moved = steps + left, flops + left * cost.flops, moved + left * cost.bytes
        peak = max(peak, cost.peak_bytes)
    return Work(steps, flops, moved, peak)


def raw_seconds(work: Work, speed: Speed, units: int) -> float:
    """As if arithmetic and memory took turns. units: cores, or GPUs, that share the work evenly."""
    return (work.flops / speed.flops_per_s + work.bytes / speed.bytes_per_s) / units


def calibrated(raw_s: float, past: Sequence[Past]) -> Estimate:
    """The median of actual over counted time corrects; the band holds eight of ten past runs."""
    ratios = [run.actual_s / run.raw_s for run in past if raw_s / ALIKE <= run.raw_s <= raw_s * ALIKE and run.raw_s > 0]
    if len(ratios) < FEWEST_RUNS:
        low, high = BAND_COUNTED
        return Estimate(raw_s, raw_s, low * raw_s, high * raw_s, "counted")
    tenths = quantiles(ratios, n=10, method="inclusive")
    basis = f"counted, corrected by {len(ratios)} past runs"
    return Estimate(raw_s, median(ratios) * raw_s, tenths[0] * raw_s, tenths[-1] * raw_s, basis)


def cost_key(code: str, task: str, config: Mapping[str, Any], *, based: bool) -> str:
    """One key for all settings that cost the same.

    Of a number with a fraction (a rate, a weight) only whether it is 0 can change what a step does.
    """
    shape = {
        name: bool(value) if isinstance(value, float) else value
        for name, value in sorted(config.items())
        if not name.startswith(NOT_IN_A_STEP) and not name.endswith("_steps")
    }
    return hashlib.sha256(json.dumps([code, task, based, shape]).encode()).hexdigest()
