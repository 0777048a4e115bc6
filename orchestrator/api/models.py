"""Models: what jobs have published, and what comes with the package."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import RedirectResponse
from pydantic import Field

from orchestrator import shelf
from orchestrator.api.auth import Reader, Writer
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import NAME_PATTERN, WRITES, Given, Instant, NamePath, SignedFile, View, problems
from orchestrator.api.services import Here, Services
from orchestrator.problems import NotFound, WrongState, invalid_field
from orchestrator.store import models, removal
from orchestrator.store.keys import Caller
from orchestrator.store.models import LATEST, Version

router = APIRouter(prefix="/v1/models", tags=["models"])

VersionPath = Annotated[str, Path(pattern=NAME_PATTERN, description="a number or an alias")]
MAX_VERSION = 2**31 - 1
NumberPath = Annotated[int, Path(ge=1, le=MAX_VERSION)]
REDIRECT = {
    "description": "to the presigned url",
    "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
}


class Lineage(View):
    """What a model was made from."""

    job: str | None  # null where the model comes with the package
    datasets: dict[str, str]  # role -> name@version
    base_model: str | None
    code: str | None  # digest of the code that trained it


class ModelView(View):
    name: str
    version: int
    aliases: list[str]
    method: str
    task: str
    files: list[SignedFile]
    config: dict[str, Any]
    lineage: Lineage
    builtin: bool  # comes with the package: everybody has it, nobody can change it
    created_at: Instant | None  # null for a built-in one


class AliasSet(Given):
    version: int = Field(ge=1, le=MAX_VERSION)


class AliasView(View):
    name: str
    alias: str
    version: int


@router.get("", responses=problems())
def list_models(caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[ModelView]:
    """The newest version of every model, in the order of names."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = shelf.page(tx, caller.tenant, after=place, limit=limit + 1)
    page = cut(found, limit, lambda version: [version.model.name])
    return Listing(data=[_view(version, services) for version in page.rows], next_cursor=page.next_cursor)


@router.get("/{name}", responses=problems(404))
def get_model(name: NamePath, caller: Reader, services: Here) -> ModelView:
    """The newest version of a model."""
    return _view(found(services, caller, name, LATEST), services)


@router.get("/{name}/versions", responses=problems(404))
def list_versions(
    name: NamePath, caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None
) -> Listing[ModelView]:
    """The versions of a model, newest first."""
    (place,) = where(cursor, int) or (None,)
    with services.db.read() as tx:
        versions = shelf.versions(tx, caller.tenant, name, before=place, limit=limit + 1)
    if not versions and place is None:
        raise NotFound(f"there is no model {name}")
    page = cut(versions, limit, lambda version: [version.model.version])
    return Listing(data=[_view(version, services) for version in page.rows], next_cursor=page.next_cursor)


@router.get("/{name}/versions/{version}", responses=problems(404))
def get_version(name: NamePath, version: VersionPath, caller: Reader, services: Here) -> ModelView:
    """A version by its number or an alias; `latest` is the highest."""
    return _view(found(services, caller, name, version), services)


@router.put("/{name}/aliases/{alias}", responses=problems(404, 409, *WRITES))
def set_alias(name: NamePath, alias: VersionPath, body: AliasSet, caller: Writer, services: Here) -> AliasView:
    """Let an alias of yours point to a version, wherever it pointed before."""
    if alias == LATEST:
        raise invalid_field("/path/alias", "latest is always the highest version: take another name")
    if alias.isdigit():
        raise invalid_field("/path/alias", f"{alias} is a version's number: take another name")
    with services.db.write() as tx:
        newest = shelf.find(tx, caller.tenant, name)
        if newest is None:
            raise NotFound(f"there is no model {name}")
        if newest.builtin:
            raise WrongState(f"{name} comes with the package: it has no aliases but {LATEST}")
        if models.find(tx, caller.tenant, name, str(body.version)) is None:
            raise invalid_field("/version", f"{name} has no version {body.version}")
        models.set_alias(tx, caller.tenant, name, alias, body.version)
    return AliasView(name=name, alias=alias, version=body.version)


@router.delete("/{name}/aliases/{alias}", status_code=204, responses=problems(404))
def delete_alias(name: NamePath, alias: VersionPath, caller: Writer, services: Here) -> None:
    """Let an alias of yours mean nothing any more."""
    with services.db.write() as tx:
        if not removal.delete_alias(tx, caller.tenant, name, alias):
            raise NotFound(f"{name} has no alias {alias!r} of yours")


@router.delete("/{name}/versions/{version}", status_code=204, responses=problems(404, 409))
def delete_version(name: NamePath, version: NumberPath, caller: Writer, services: Here) -> None:
    """Delete a version by its number, which is not given out again. Its objects follow within the next days."""
    with services.db.write() as tx:
        there = shelf.find(tx, caller.tenant, name, str(version))
        if there is None:
            raise NotFound(f"there is no model {name}@{version}")
        if there.builtin:
            raise WrongState(f"{name} comes with the package: it cannot be deleted")
        if reason := removal.delete_model(tx, there.model):
            raise WrongState(f"{name}@{version} stays: {reason}")


@router.get(
    "/{name}/versions/{version}/files/{path:path}",
    status_code=307,
    response_class=RedirectResponse,
    responses={**problems(404), 307: REDIRECT},
)
def get_file(name: NamePath, version: VersionPath, path: str, caller: Reader, services: Here) -> RedirectResponse:
    """A file of a version, from the object store."""
    model = found(services, caller, name, version).model
    if path not in [file["path"] for file in model.files]:
        raise NotFound(f"{name}@{model.version} has no file {path!r}")
    return RedirectResponse(services.objects.presigned_get(f"{model.prefix}/{path}"), status_code=307)


def found(services: Services, caller: Caller, name: str, version: str) -> Version:
    """Raises NotFound, also for another tenant's."""
    with services.db.read() as tx:
        there = shelf.find(tx, caller.tenant, name, version)
    if there is None:
        raise NotFound(f"there is no model {name}@{version}")
    return there


def _view(version: Version, services: Services) -> ModelView:
    model = version.model
    return ModelView(
        name=model.name,
        version=model.version,
        aliases=version.aliases,
        method=model.method,
        task=model.task,
        files=[
            SignedFile(
                path=file["path"],
                size=file["size"],
                sha256=file["sha256"],
                url=services.objects.presigned_get(f"{model.prefix}/{file['path']}"),
            )
            for file in model.files
        ],
        config=model.config,
        lineage=Lineage.model_validate(model.lineage),
        builtin=version.builtin,
        created_at=None if version.builtin else model.created_at,
    )
