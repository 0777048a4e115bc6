"""The web page: what is in the database as HTML. What it changes goes through the API, from `static/*.js`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from orchestrator import shelf
from orchestrator.problems import NotFound
from orchestrator.scopes import Scope
from orchestrator.sessions import check_origin, clear_cookie, set_cookie
from orchestrator.states import Move, Status, sources
from orchestrator.store import datasets, jobs, models, overview
from orchestrator.store.jobs import Filter
from orchestrator.store.models import Version
from orchestrator.store.tables import Job
from orchestrator.web.charts import curves
from orchestrator.web.gallery import gallery, thumbnail
from orchestrator.web.site import STATIC, Here, PageRoute, Services, Visitor, render, signed, wants_part

JOBS_SHOWN = 50
LOG_EVENTS_SHOWN = 200
MOST = 1000  # samples, models, datasets on one page

router = APIRouter(include_in_schema=False, route_class=PageRoute)


# --- coming in --------------------------------------------------------------------------------------------------------


@router.get("/login")
def login_form(request: Request, next: str = "/") -> HTMLResponse:
    return render(request, "login.html", next=own_path(next), wrong=False)


@router.post("/login")
def login(
    request: Request, services: Here, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    """Trade a key for the cookie."""
    check_origin(request, services.settings.public_url)
    secret = key.strip()
    if not secret or services.access.find(secret) is None:
        return render(request, "login.html", status=401, next=own_path(next), wrong=True)
    response = RedirectResponse(own_path(next), status_code=303)
    set_cookie(response, secret, secure=(services.settings.public_url or str(request.url)).startswith("https:"))
    return response


@router.post("/logout")
def logout(request: Request, services: Here) -> Response:
    check_origin(request, services.settings.public_url)
    response = RedirectResponse("/login", status_code=303)
    clear_cookie(response)
    return response


def own_path(path: str) -> str:
    """`path` if it leads to a page of ours, else the first page."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in {path.name for path in STATIC.iterdir()}:
        raise NotFound(f"there is no static file {name!r}")
    return FileResponse(STATIC / name, headers={"Cache-Control": "public, max-age=31536000, immutable"})


# --- jobs -------------------------------------------------------------------------------------------------------------


@router.get("/")
def job_list(
    request: Request,
    services: Here,
    visitor: Visitor,
    status: str = "",
    method: str = "",
    q: Annotated[str, Query(max_length=100)] = "",
    before: str | None = None,
) -> HTMLResponse:
    wanted = Filter(
        status=[status] if status in list(Status) else (),
        method=method or None,
        name_contains=q.replace("\0", "") or None,
    )
    with services.db.read() as tx:
        found = jobs.page(tx, visitor.tenant, wanted, before=before, limit=JOBS_SHOWN + 1)
        shown = jobs.shown(tx, found[:JOBS_SHOWN], classes=services.catalogue.classes)
        pictures = overview.newest_results(tx, [item.job.id for item in shown])
        used = overview.methods_used(tx, visitor.tenant)
        offered = [] if shown else shelf.offered(tx, visitor.tenant)
    values: dict[str, Any] = {
        "shown": shown,
        "pictures": pictures,
        "older": found[JOBS_SHOWN - 1].id if len(found) > JOBS_SHOWN else None,
        "chosen": {"status": status, "method": method, "q": q},
        "before": before,
        "methods": used,
        "statuses": list(Status),
        "builtin": [card(version) for version in offered],
    }
    template = "jobs_rows.html" if wants_part(request) else "jobs.html"
    return render(request, template, **values)


@router.get("/jobs/{job_id}")
def job_page(request: Request, services: Here, visitor: Visitor, job_id: str) -> HTMLResponse:
    with services.db.read() as tx:
        job = job_of(tx, visitor.tenant, job_id)
        values = overview_of(tx, job, visitor, services)
        log = overview.log_tail(tx, job.id, events=LOG_EVENTS_SHOWN)
        pictures = gallery(jobs.samples(tx, job.id, after=(-1, ""), limit=MOST))
    return render(request, "job.html", **values, log=log, gallery=pictures)


@router.get("/jobs/{job_id}/overview")
def job_overview(request: Request, services: Here, visitor: Visitor, job_id: str) -> HTMLResponse:
    with services.db.read() as tx:
        values = overview_of(tx, job_of(tx, visitor.tenant, job_id), visitor, services)
    return render(request, "job_overview.html", **values)


@router.get("/jobs/{job_id}/gallery")
def job_gallery(request: Request, services: Here, visitor: Visitor, job_id: str) -> HTMLResponse:
    with services.db.read() as tx:
        job = job_of(tx, visitor.tenant, job_id)
        pictures = gallery(jobs.samples(tx, job.id, after=(-1, ""), limit=MOST))
    return render(request, "job_gallery.html", job=job, gallery=pictures)


@router.get("/jobs/{job_id}/curves")
def job_curves(services: Here, visitor: Visitor, job_id: str) -> dict[str, Any]:
    """Everything that was measured so far, and from which event on the stream goes on."""
    with services.db.read() as tx:
        return curves(tx, job_of(tx, visitor.tenant, job_id))


@router.get("/jobs/{job_id}/samples/{step}/{name}")
def job_sample(services: Here, visitor: Visitor, job_id: str, step: int, name: str) -> Response:
    """A picture under an address that stays, unlike the signed one."""
    with services.db.read() as tx:
        job = job_of(tx, visitor.tenant, job_id)
        key = overview.sample_key(tx, job.id, step, name)
    if key is None:
        raise NotFound(f"{job_id} has no picture {name!r} of step {step}")
    return signed(services, key)


def job_of(tx: Session, tenant: str, job_id: str) -> Job:
    job = jobs.find(tx, tenant, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def overview_of(tx: Session, job: Job, visitor: Visitor, services: Services) -> dict[str, Any]:
    """What stands on top of a job's page."""
    may = Scope.SUBMIT in visitor.scopes
    return {
        "shown": jobs.shown(tx, [job], classes=services.catalogue.classes)[0],
        "job": job,
        "attempts": jobs.attempts(tx, job.id, after=0, limit=MOST),
        "model": overview.model_of_job(tx, job.id),
        "can": {
            "pause": may and job.status in sources(Move.PAUSE),
            "resume": may and job.status in sources(Move.RESUME),
            "cancel": may and job.status in sources(Move.CANCEL),
            "retry": may and job.finished_at is not None,
        },
    }


# --- models, datasets, methods ----------------------------------------------------------------------------------------


@router.get("/models")
def model_list(request: Request, services: Here, visitor: Visitor) -> HTMLResponse:
    with services.db.read() as tx:
        found = shelf.page(tx, visitor.tenant, after=None, limit=MOST)
    own = [card(version) for version in found if not version.builtin]
    return render(request, "models.html", own=own, builtin=[card(version) for version in found if version.builtin])


def card(version: Version) -> tuple[Version, str | None]:
    """A model and the file that shows what it can do."""
    return version, thumbnail(file["path"] for file in version.model.files)


@router.get("/models/{name}")
def newest_model(request: Request, services: Here, visitor: Visitor, name: str) -> HTMLResponse:
    return model_page(request, services, visitor, name, models.LATEST)


@router.get("/models/{name}/{version}")
def model_page(request: Request, services: Here, visitor: Visitor, name: str, version: str) -> HTMLResponse:
    with services.db.read() as tx:
        found = shelf.find(tx, visitor.tenant, name, version)
        if found is None:
            raise NotFound(f"there is no model {name}@{version}")
        others = shelf.versions(tx, visitor.tenant, name, before=None, limit=MOST)
    paths = [file["path"] for file in found.model.files]
    task = services.catalogue.task(found.model.method, found.model.task)
    return render(
        request,
        "model.html",
        version=found,
        may_draw=Scope.STYLIZE in visitor.scopes and (task is None or task.draws),
        others=others,
        task=task,
        thumbnail=thumbnail(paths),
        samples=[path for path in paths if path.startswith("samples/")],
    )


@router.get("/models/{name}/{version}/files/{path:path}")
def model_file(services: Here, visitor: Visitor, name: str, version: int, path: str) -> Response:
    """A file of a model, for the page's pictures and links."""
    with services.db.read() as tx:
        found = shelf.find(tx, visitor.tenant, name, str(version))
    if found is None or path not in [file["path"] for file in found.model.files]:
        raise NotFound(f"{name}@{version} has no file {path!r}")
    return signed(services, f"{found.model.prefix}/{path}")


@router.get("/datasets")
def dataset_list(request: Request, services: Here, visitor: Visitor) -> HTMLResponse:
    with services.db.read() as tx:
        found = datasets.page(tx, visitor.tenant, after=None, limit=MOST)
    template = "datasets_rows.html" if wants_part(request) else "datasets.html"
    return render(request, template, datasets=found)


@router.get("/methods")
def method_list(request: Request, services: Here, visitor: Visitor) -> HTMLResponse:
    known = services.catalogue
    methods = [
        (method, [task for name in method["tasks"] if (task := known.task(slug, name)) is not None])
        for slug, method in known.methods.items()
    ]
    return render(request, "methods.html", methods=methods)
