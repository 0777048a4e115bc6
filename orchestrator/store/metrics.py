"""Curves: every metric has one value a step; long ones are thinned out in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from orchestrator.store.tables import Metric

Points = list[tuple[int, float]]


def curves(tx: Session, job_id: str, *, names: Sequence[str], from_step: int, max_points: int) -> dict[str, Points]:
    """The points of a job's metrics in order of steps, by name; all metrics where `names` is empty.

    A curve of more than `max_points` keeps its first and last point, and of equal stretches of steps in between the
    lowest and the highest point: no spike is lost.
    """
    mine = [Metric.job_id == job_id, Metric.step >= from_step]
    if names:
        mine.append(Metric.name.in_(names))
    extent = select(Metric.name, func.count(), func.min(Metric.step), func.max(Metric.step)).where(*mine)
    found: dict[str, Points] = {}
    for name, count, first, last in tx.execute(extent.group_by(Metric.name).order_by(Metric.name)):
        if count <= max_points:
            everything = select(Metric.step, Metric.value).where(*mine, Metric.name == name).order_by(Metric.step)
            found[name] = [(step, value) for step, value in tx.execute(everything)]
        else:
            found[name] = _thinned(tx, job_id, name, first, last, max_points)
    return found


def _thinned(tx: Session, job_id: str, name: str, first: int, last: int, max_points: int) -> Points:
    stretches = max(1, (max_points - 2) // 2)
    length = max(1, -(-(last - first + 1) // stretches))
    stretch = (Metric.step - first) // length
    lowest = func.row_number().over(partition_by=stretch, order_by=(Metric.value, Metric.step))
    highest = func.row_number().over(partition_by=stretch, order_by=(Metric.value.desc(), Metric.step))
    ranked = (
        select(Metric.step, Metric.value, lowest.label("lowest"), highest.label("highest"))
        .where(Metric.job_id == job_id, Metric.name == name, Metric.step >= first)
        .subquery()
    )
    kept = (
        select(ranked.c.step, ranked.c.value)
        .where(or_(ranked.c.lowest == 1, ranked.c.highest == 1, ranked.c.step.in_([first, last])))
        .order_by(ranked.c.step)
    )
    return [(step, value) for step, value in tx.execute(kept)]
