"""Pages of comparisons: the list, and one with its pictures and figures as they come in."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy.orm import Session

from orchestrator import shelf
from orchestrator.problems import NotFound
from orchestrator.scopes import Scope
from orchestrator.states import TERMINAL
from orchestrator.store import comparisons
from orchestrator.store.comparisons import SHEET
from orchestrator.store.tables import Job
from orchestrator.web.site import Here, PageRoute, Services, Visitor, render, signed, wants_part

SHOWN = 100  # comparisons in the list
OFFERED = 500  # models in the form
ROLES = ("content", "style")

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/comparisons")
def comparison_list(request: Request, services: Here, visitor: Visitor) -> HTMLResponse:
    with services.db.read() as tx:
        found = comparisons.page(tx, visitor.tenant, before=None, limit=SHOWN)
        models = _models(tx, services, visitor.tenant) if Scope.SUBMIT in visitor.scopes else []
    return render(request, "comparisons.html", comparisons=found, models=models)


@router.get("/comparisons/{comparison_id}")
def comparison_page(request: Request, services: Here, visitor: Visitor, comparison_id: str) -> HTMLResponse:
    with services.db.read() as tx:
        job = _of(tx, visitor.tenant, comparison_id)
        values = _values(tx, job) | {"may_steer": Scope.SUBMIT in visitor.scopes}
    template = "comparison_overview.html" if wants_part(request) else "comparison.html"
    return render(request, template, **values)


@router.get("/comparisons/{comparison_id}/given/{role}/{place}")
def given_picture(services: Here, visitor: Visitor, comparison_id: str, role: str, place: int) -> Response:
    """A content or style picture, counted from 1."""
    with services.db.read() as tx:
        job = _of(tx, visitor.tenant, comparison_id)
        keys = comparisons.given_keys(job, comparisons.pictures(tx, job.id), role) if role in ROLES else []
    if not 1 <= place <= len(keys):
        raise NotFound(f"{comparison_id} has no {role} picture {place}")
    return signed(services, keys[place - 1])


@router.get("/comparisons/{comparison_id}/drawn/{step}/{name}")
def drawn_picture(services: Here, visitor: Visitor, comparison_id: str, step: int, name: str) -> Response:
    """A picture by the model at place `step`, or the sheet, under an address that stays."""
    with services.db.read() as tx:
        job = _of(tx, visitor.tenant, comparison_id)
        keys = [sample.key for sample in comparisons.pictures(tx, job.id) if (sample.step, sample.name) == (step, name)]
    if not keys:
        raise NotFound(f"{comparison_id} has no picture {name!r} of model {step}")
    return signed(services, keys[0])


def _models(tx: Session, services: Services, tenant: str) -> list[str]:
    """Names of those that can take part."""
    offered = [version.model for version in shelf.page(tx, tenant, after=None, limit=OFFERED)]
    tasks = [(model.name, services.catalogue.task(model.method, model.task)) for model in offered]
    return [name for name, task in tasks if task is not None and task.draws and task.styles[0] <= 1]


def _of(tx: Session, tenant: str, comparison_id: str) -> Job:
    job = comparisons.find(tx, tenant, comparison_id)
    if job is None:
        raise NotFound(f"there is no comparison {comparison_id}")
    return job


def _values(tx: Session, job: Job) -> dict[str, Any]:
    samples = comparisons.pictures(tx, job.id)
    pairs = [
        {"name": f"{n}-{m}", "content": n, "style": m, "titles": (content["path"], style["path"])}
        for n, content in enumerate(job.config["content"], start=1)
        for m, style in enumerate(job.config["style"], start=1)
    ]
    return {
        "comparison": job,
        "figures": comparisons.figures(tx, job.id),
        "drawn": {(sample.step, sample.name) for sample in samples},
        "sheet": next((sample.step for sample in samples if sample.name == SHEET), None),
        "pairs": pairs,
        "over": job.status in TERMINAL,
    }
