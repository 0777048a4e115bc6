"""What can be trained."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from orchestrator.api.auth import Reader
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import View, problems
from orchestrator.api.services import Here
from orchestrator.problems import NotFound

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class TaskView(View):
    """What a job of a task needs and can be told."""

    config: dict[str, Any]  # JSON Schema with defaults
    datasets: dict[str, str]  # role -> images | labelled
    min_classes: int  # that a labelled dataset must have
    min_per_class: int  # pictures that each of its classes must have
    base_model: str | None  # "method/task"
    base_model_required: bool
    style_image: bool
    parameters: Any  # trained numbers, of each part, with the default settings
    controls: dict[str, Any]  # JSON Schema of what a finished model can be told
    draws: bool  # false: a finished model makes no pictures
    styles: tuple[int, int]  # fewest and most style pictures of a stylisation
    masks: bool  # a stylisation may say where each style goes
    regions: bool  # a stylisation may pair regions of content and style
    init_image: bool  # a stylisation may go on from another picture of the content
    trains: bool  # false: there is nothing to learn, so no job
    multiple: int
    shared_out: str | None  # the setting whose number workers divide; null: one worker only
    phases: list[dict[str, Any]]


class MethodView(View):
    method: str
    title: str
    paper: str
    tasks: dict[str, TaskView]


@router.get("", responses=problems())
def list_methods(caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[MethodView]:
    """Every method with its tasks, in the order of names."""
    (place,) = where(cursor, str) or (None,)
    names = [name for name in sorted(services.catalogue.methods) if place is None or name > place]
    page = cut(names, limit, lambda name: [name])
    data = [MethodView.model_validate(services.catalogue.methods[name]) for name in page.rows]
    return Listing(data=data, next_cursor=page.next_cursor)


@router.get("/{method}", responses=problems(404))
def get_method(method: str, caller: Reader, services: Here) -> MethodView:
    """One method."""
    found = services.catalogue.methods.get(method)
    if found is None:
        raise NotFound(f"there is no method {method!r}; there are {', '.join(sorted(services.catalogue.methods))}")
    return MethodView.model_validate(found)
