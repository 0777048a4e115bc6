"""Pages of sweeps: the list, and one with its trials."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from orchestrator.problems import NotFound
from orchestrator.scopes import Scope
from orchestrator.store import groups, sweeps
from orchestrator.store.sweeps import TrialFacts
from orchestrator.store.tables import Group
from orchestrator.web.site import Here, PageRoute, Visitor, render, wants_part
from orchestrator.web.sweep_chart import HEIGHT, WIDTH, chart

SHOWN = 100  # sweeps in the list

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/sweeps")
def sweep_list(request: Request, services: Here, visitor: Visitor) -> HTMLResponse:
    with services.db.read() as tx:
        found = groups.page(tx, visitor.tenant, "sweep", before=None, limit=SHOWN)
        counts = groups.counts(tx, [group.id for group in found]) if found else {}
    return render(request, "sweeps.html", sweeps=found, counts=counts)


@router.get("/sweeps/{sweep_id}")
def sweep_page(request: Request, services: Here, visitor: Visitor, sweep_id: str) -> HTMLResponse:
    with services.db.read() as tx:
        group = groups.find(tx, visitor.tenant, "sweep", sweep_id)
        if group is None:
            raise NotFound(f"there is no sweep {sweep_id}")
        values = _values(tx, group) | {"may_steer": Scope.SUBMIT in visitor.scopes}
    template = "sweep_overview.html" if wants_part(request) else "sweep.html"
    return render(request, template, **values)


def _values(tx: Session, group: Group) -> dict[str, Any]:
    trials = sweeps.facts(tx, group)
    best = sweeps.best_of(group, trials)
    counts = groups.counts(tx, [group.id])[group.id]
    plotted = [_plotted(trial) for trial in trials]
    return {
        "sweep": group,
        "trials": sorted(trials, key=lambda trial: _order(group, trial)),
        "settings": list(group.spec["space"]),
        "best": best,
        "counts": counts,
        "over": groups.is_over(counts),
        "chart": chart(group.spec, plotted, best.number if best is not None else None),
        "width": WIDTH,
        "height": HEIGHT,
    }


def _plotted(trial: TrialFacts) -> dict[str, Any]:
    return {"number": trial.number, "params": trial.params, "values": trial.values, "value": trial.value}


def _order(group: Group, trial: TrialFacts) -> tuple[int, float, int]:
    """Those that came furthest first, of them the best."""
    if trial.value is None:
        return -trial.rung, float("inf"), trial.number
    return -trial.rung, trial.value if group.spec["mode"] == "min" else -trial.value, trial.number
