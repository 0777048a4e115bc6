"""Comparisons: chosen models, the same pictures, one worker; a sheet to look at and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator import shelf
from orchestrator.api.auth import Reader, Submitter, Writer
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.job_views import Config, ErrorView, ProgressView
from orchestrator.api.jobs import delete_ended, grant
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.pins import pinned_dataset, split
from orchestrator.api.schemas import WRITES, FilePath, Given, Instant, Name, Reference, Text, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.api.submission import check_encoder, check_queue
from orchestrator.catalogue import Catalogue, InvalidConfig
from orchestrator.ids import new_id
from orchestrator.problems import FieldProblem, Invalid, NotFound, invalid_field, invalid_fields
from orchestrator.states import Move, Phase, phase_of
from orchestrator.store import comparisons, datasets, jobs
from orchestrator.store.comparisons import PREFIX, SHEET, TASK
from orchestrator.store.datasets import Pin
from orchestrator.store.jobs import NewJob
from orchestrator.store.models import Version
from orchestrator.store.tables import Job, Sample

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])

MOST_MODELS = 32
MOST_PICTURES = 16  # of each kind
MOST_PAIRS = 64
MOST_DRAWN = 512  # pictures that one sheet shows
RETRIES = 2


class ContestantGiven(Given):
    """A model that takes part: one by its name, or a method's newest one."""

    model: Reference | None = Field(None, description="name, name@alias or name@3")
    method: Text | None = Field(None, description="instead: the newest model of this method, e.g. sanet or sanet/train")
    name: Name | None = Field(None, description="on the sheet; the model's where nothing is said")
    controls: Config = Field({}, description="what the model is told, see /v1/methods")
    note: Annotated[Text, Field(max_length=200)] = Field("", description="under its pictures: how long it was trained")


class PicturesGiven(Given):
    """Pictures of a dataset."""

    dataset: Reference
    paths: Annotated[list[FilePath], Field(min_length=1, max_length=MOST_PICTURES)]


class ComparisonCreate(Given):
    """Every model draws every content in every style."""

    name: Name = "comparison"
    models: Annotated[list[ContestantGiven], Field(min_length=1, max_length=MOST_MODELS)]
    content: PicturesGiven
    style: PicturesGiven
    size: int = Field(256, ge=32, le=4096, description="shorter side of the contents, pixels")
    encoder: Name = Field("small", description="who measures, whatever each model was trained with")
    cpus: int = Field(1, ge=1, le=1024, description="cores of the worker")
    priority: int = Field(0, ge=-1_000_000, le=1_000_000)


class PictureView(View):
    path: str
    url: str


class DrawnView(View):
    content: int = Field(description="place in `content`, from 1")
    style: int = Field(description="place in `style`, from 1")
    width: int
    height: int
    url: str


class FiguresView(View):
    """Means over all pairs."""

    content_loss: float = Field(description="distance of normalised relu4_1 features, 0 to about 2")
    style_loss: float = Field(description="relative distance of Gram matrices over five taps")
    seconds: float = Field(description="of a picture")
    mpx_per_s: float
    peak_mib: float | None = Field(description="beyond what the worker held before")
    parameters: float


class ContestantView(View):
    name: str
    model: str
    method: str
    note: str
    controls: dict[str, Any]
    figures: FiguresView | None = Field(description="null until it has drawn")
    pictures: list[DrawnView]


class ComparisonView(View):
    id: str
    name: str
    status: str
    phase: Phase
    progress: ProgressView = Field(description="`step` counts models")
    size: int
    encoder: str
    content: list[PictureView]
    style: list[PictureView]
    models: list[ContestantView]
    sheet: str | None = Field(description="url of all pictures on one page; null until it is there")
    error: ErrorView | None
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None


@router.post("", status_code=201, responses=problems(409, *WRITES))
def submit(
    body: ComparisonCreate, caller: Submitter, services: Here, response: Response, key: IdempotencyKey = None
) -> ComparisonView:
    """Queue a comparison. Models and pictures are pinned; one worker draws all of it, so that times compare."""
    comparison_id = new_id(PREFIX)
    with services.db.write() as tx:
        made = made_before(tx, caller.tenant, key, status=201, resource=comparison_id)
        if made is None:
            job = jobs.submit(tx, _new(tx, comparison_id, caller.tenant, body, services.catalogue))
            check_queue(tx, caller.tenant)
        else:
            job = _find(tx, caller.tenant, made)
        answer = view(tx, job, services)
    services.bus.wake()
    response.headers["Location"] = f"/v1/comparisons/{answer.id}"
    return answer


@router.get("", responses=problems())
def list_comparisons(
    caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[ComparisonView]:
    """Comparisons, newest first."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = comparisons.page(tx, caller.tenant, before=place, limit=limit + 1)
        page = cut(found, limit, lambda job: [job.id])
        data = [view(tx, job, services) for job in page.rows]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{id}", responses=problems(404))
def get_comparison(id: str, caller: Reader, services: Here) -> ComparisonView:
    """One comparison; pictures and figures are there as soon as their model has drawn."""
    with services.db.read() as tx:
        return view(tx, _find(tx, caller.tenant, id), services)


@router.post("/{id}/cancel", responses=problems(404, 409))
def cancel(id: str, caller: Submitter, services: Here) -> ComparisonView:
    """Stop for good; what is drawn already stays."""
    with services.db.write() as tx:
        job = _find(tx, caller.tenant, id)
        grant(tx, job, Move.CANCEL)
        answer = view(tx, job, services)
    services.bus.tell(id)
    services.bus.wake()
    return answer


@router.delete("/{id}", status_code=204, responses=problems(404, 409))
def delete_comparison(id: str, caller: Writer, services: Here) -> None:
    """Delete a comparison that has ended, with its pictures."""
    with services.db.write() as tx:
        delete_ended(tx, _find(tx, caller.tenant, id))


def _find(tx: Session, tenant: str, comparison_id: str) -> Job:
    """Raises NotFound, also for another tenant's."""
    job = comparisons.find(tx, tenant, comparison_id)
    if job is None:
        raise NotFound(f"there is no comparison {comparison_id!r}")
    return job


def _new(tx: Session, comparison_id: str, tenant: str, body: ComparisonCreate, catalogue: Catalogue) -> NewJob:
    """Raises Invalid that names the field."""
    _check_encoder(tx, catalogue, body.encoder)
    pins = {role: _pinned(tx, tenant, role, getattr(body, role)) for role in ("content", "style")}
    pairs = len(body.content.paths) * len(body.style.paths)
    if pairs > MOST_PAIRS:
        raise invalid_field("/style/paths", f"at most {MOST_PAIRS} pairs of a content and a style are drawn")
    if (drawn := pairs * len(body.models)) > MOST_DRAWN:
        raise invalid_field("/models", f"{drawn} pictures of {pairs} pairs, at most {MOST_DRAWN} are drawn in all")
    contestants = [_contestant(tx, tenant, place, given, catalogue) for place, given in enumerate(body.models)]
    names = [entry["name"] for entry in contestants]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise invalid_field(f"/models/{place}/name", f"{name} takes part twice: give one of them another name")
    pictures = {role: _paths(tx, tenant, role, pins[role], getattr(body, role).paths) for role in pins}
    cluster = jobs.cluster(tx)
    if cluster.is_known and cluster.cpus is not None and body.cpus > cluster.cpus:
        raise invalid_field("/cpus", f"{body.cpus} were asked for, the cluster has {cluster.cpus}")
    return NewJob(
        comparison_id,
        tenant,
        method=PREFIX,
        task=TASK,
        name=body.name,
        config={"models": contestants, **pictures, "size": body.size, "encoder": body.encoder},
        datasets={role: pin.reference() for role, pin in pins.items()},
        cpus=body.cpus,
        gpus=0,
        priority=body.priority,
        max_retries=RETRIES,
        total_steps=len(contestants),
    )


def _check_encoder(tx: Session, catalogue: Catalogue, encoder: str) -> None:
    if encoder not in catalogue.encoders():
        raise invalid_field("/encoder", f"there is no {encoder!r}; there are {', '.join(catalogue.encoders())}")
    try:
        check_encoder(tx, catalogue, {"encoder": encoder})
    except Invalid as problem:
        raise invalid_field("/encoder", problem.errors[0].detail) from problem


def _pinned(tx: Session, tenant: str, role: str, given: PicturesGiven) -> Pin:
    try:
        return pinned_dataset(tx, tenant, role, None, given.dataset)
    except Invalid as problem:
        raise invalid_field(f"/{role}/dataset", problem.errors[0].detail) from problem


def _paths(tx: Session, tenant: str, role: str, pin: Pin, paths: list[str]) -> list[dict[str, str]]:
    there = datasets.pictures(tx, tenant, pin.name, pin.version)
    for place, path in enumerate(paths):
        if path not in there:
            raise invalid_field(f"/{role}/paths/{place}", f"{pin.name}@{pin.version} has no usable picture {path}")
        if path in paths[:place]:
            raise invalid_field(f"/{role}/paths/{place}", f"{path} is named twice")
    return [{"path": path, "sha256": there[path]} for path in paths]


def _contestant(tx: Session, tenant: str, place: int, given: ContestantGiven, catalogue: Catalogue) -> dict[str, Any]:
    """A model with its files by their digests. Raises Invalid."""
    pointer = f"/models/{place}"
    model = _model(tx, tenant, pointer, given).model
    info = catalogue.task(model.method, model.task)
    if info is None:
        raise invalid_field(pointer, f"this service does not know {model.method}/{model.task}")
    if not info.draws:
        raise invalid_field(pointer, f"a model of {model.method}/{model.task} draws no pictures")
    if not info.styles[0] <= 1:
        raise invalid_field(pointer, f"{model.method}/{model.task} draws with {info.styles[0]} styles at least")
    try:
        complete = info.complete_controls(given.controls)
    except InvalidConfig as error:
        raise invalid_fields(
            [FieldProblem(f"{pointer}/controls{e.pointer}", e.detail) for e in error.errors]
        ) from error
    return {
        "name": given.name or model.name,
        "model": f"{model.name}@{model.version}",
        "method": f"{model.method}/{model.task}",
        "note": given.note,
        "controls": {name: complete[name] for name in given.controls},
        "prefix": model.prefix,
        "files": model.files,
    }


def _model(tx: Session, tenant: str, pointer: str, given: ContestantGiven) -> Version:
    if (given.model is None) == (given.method is None):
        raise invalid_field(pointer, "names a model or a method: one of the two")
    if given.method is not None:
        found = shelf.newest_of_method(tx, tenant, *given.method.partition("/")[::2])
        if found is None:
            raise invalid_field(f"{pointer}/method", f"there is no model of {given.method} yet")
        return found
    assert given.model is not None
    name, version = split(given.model)
    found = shelf.find(tx, tenant, name, version)
    if found is None:
        raise invalid_field(f"{pointer}/model", f"there is no model {given.model}")
    return found


def view(tx: Session, job: Job, services: Services) -> ComparisonView:
    """What is known of a comparison by now."""
    figures = comparisons.figures(tx, job.id)
    samples = comparisons.pictures(tx, job.id)
    sign = services.objects.presigned_get
    sheet = next((sign(sample.key) for sample in samples if sample.name == SHEET), None)
    entries = job.config["models"]
    return ComparisonView(
        id=job.id,
        name=job.name,
        status=job.status,
        phase=phase_of(job.status),
        progress=ProgressView(step=job.step, total_steps=job.total_steps, images_per_second=None, eta_s=None),
        size=job.config["size"],
        encoder=job.config["encoder"],
        content=_given(job, samples, "content", services),
        style=_given(job, samples, "style", services),
        models=[
            ContestantView(
                name=entry["name"],
                model=entry["model"],
                method=entry["method"],
                note=entry["note"],
                controls=entry["controls"],
                figures=FiguresView(**{"peak_mib": None, **figures[place]}) if place in figures else None,
                pictures=[_drawn(s, services) for s in samples if s.step == place and s.name != SHEET],
            )
            for place, entry in enumerate(entries, start=1)
        ],
        sheet=sheet,
        error=None if job.error is None else ErrorView(**job.error),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _given(job: Job, samples: Sequence[Sample], role: str, services: Services) -> list[PictureView]:
    keys = comparisons.given_keys(job, samples, role)
    return [
        PictureView(path=entry["path"], url=services.objects.presigned_get(key))
        for entry, key in zip(job.config[role], keys, strict=True)
    ]


def _drawn(sample: Sample, services: Services) -> DrawnView:
    content, style = sample.name.split("-")
    return DrawnView(
        content=int(content),
        style=int(style),
        width=sample.width,
        height=sample.height,
        url=services.objects.presigned_get(sample.key),
    )
