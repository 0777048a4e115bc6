"""Datasets: pictures go straight to the object store; a version is a list of them that an ingest has checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from pydantic import Field

from orchestrator.api.auth import Reader, Writer
from orchestrator.api.idempotency import IdempotencyKey, made_before
from orchestrator.api.paging import Cursor, Limit, Listing, cut, where
from orchestrator.api.schemas import (
    WRITES,
    FilePath,
    Given,
    Instant,
    NamePath,
    Sha256,
    View,
    problems,
)
from orchestrator.api.services import Here
from orchestrator.api.usage import check_room
from orchestrator.objects import upload_key
from orchestrator.problems import FieldProblem, NotFound, WrongState, invalid_fields
from orchestrator.store import datasets, removal
from orchestrator.store.keys import Caller

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

LARGEST_FILE = 5 * 1024**3  # of one `PUT`, by S3
VersionPath = Annotated[int, Path(ge=1, le=2**31 - 1)]


class FileOffered(Given):
    path: FilePath
    size: int = Field(ge=1, le=LARGEST_FILE)
    sha256: Sha256


class Uploads(Given):
    files: list[FileOffered]


class FileThere(View):
    """A picture that an ingest has read already."""

    path: str
    exists: Literal[True] = True


class FileWanted(View):
    """A picture to be sent by a plain `PUT`."""

    path: str
    url: str
    headers: dict[str, str]  # to be sent with it


class UploadsView(View):
    files: list[FileThere | FileWanted]


class FileListed(Given):
    path: FilePath
    sha256: Sha256


class VersionCreate(Given):
    kind: Literal["images", "labelled"]  # labelled: the folder of a picture is its class
    files: list[FileListed] = Field(min_length=1)


class CommittedView(View):
    name: str
    version: int
    status: str


class RefusedFile(View):
    path: str
    reason: str


class DatasetView(View):
    name: str
    version: int
    kind: str
    status: str = Field(description="ingesting | ready | rejected")
    hash: str | None
    count: int | None = Field(description="pictures, without doubles")
    bytes: int | None
    classes: list[str]
    class_counts: dict[str, int] | None = Field(description="pictures of each class; null where there are none")
    refused: list[RefusedFile]
    error: str | None
    created_at: Instant


@router.post("/{name}/uploads", responses=problems(409, *WRITES))
def offer_files(name: NamePath, body: Uploads, caller: Writer, services: Here) -> UploadsView:
    """Which of these files are there already, and where to send the others; answers in the same order.

    A picture is believed once the ingest of a version has read it, so what was only sent is asked for again.
    """
    with services.db.read() as tx:
        known = datasets.known_blobs(tx, caller.tenant, (file.sha256 for file in body.files))
        missing = {file.sha256: file.size for file in body.files if file.sha256 not in known}
        if missing:
            check_room(tx, caller.tenant, more=sum(missing.values()))

    def answer(file: FileOffered) -> FileThere | FileWanted:
        if file.sha256 in known:
            return FileThere(path=file.path)
        url = services.objects.presigned_put(upload_key(caller.tenant, file.sha256))
        return FileWanted(path=file.path, url=url, headers={})

    return UploadsView(files=[answer(file) for file in body.files])


@router.post("/{name}/versions", status_code=202, responses=problems(409, *WRITES))
def commit_version(
    name: NamePath,
    body: VersionCreate,
    caller: Writer,
    services: Here,
    response: Response,
    key: IdempotencyKey = None,
) -> CommittedView:
    """Make a list of files the next version, and start its ingest.

    The newest version again if its list is the same and it was not rejected.
    """
    _refuse_doubles(body.files)
    files = [file.model_dump() for file in body.files]
    digest = datasets.list_digest(body.kind, files)
    with services.db.write() as tx:
        planned = datasets.plan(tx, caller.tenant, name, digest)
        made = made_before(tx, caller.tenant, key, status=202, resource=f"{name}/{planned.version}")
        version = planned.version if made is None else int(made.rpartition("/")[2])
        if made is None and not planned.exists:
            check_room(tx, caller.tenant)
            datasets.commit(tx, caller.tenant, name, version, body.kind, files)
        found = datasets.find(tx, caller.tenant, name, version)
    if found is None:
        raise NotFound(f"there is no dataset {name}@{version}")
    services.bus.wake()
    response.headers["Location"] = f"/v1/datasets/{name}/versions/{version}"
    return CommittedView(name=name, version=version, status=found.status)


@router.get("", responses=problems())
def list_datasets(caller: Reader, services: Here, limit: Limit = 50, cursor: Cursor = None) -> Listing[DatasetView]:
    """The newest version of every dataset, in the order of names."""
    (place,) = where(cursor, str) or (None,)
    with services.db.read() as tx:
        found = datasets.page(tx, caller.tenant, after=place, limit=limit + 1)
    page = cut(found, limit, lambda row: [row.name])
    return Listing(data=[DatasetView.model_validate(row) for row in page.rows], next_cursor=page.next_cursor)


@router.get("/{name}", responses=problems(404))
def get_dataset(name: NamePath, caller: Reader, services: Here) -> DatasetView:
    """The newest version of a dataset."""
    return DatasetView.model_validate(_found(services, caller, name, None))


@router.get("/{name}/versions/{version}", responses=problems(404))
def get_version(name: NamePath, version: VersionPath, caller: Reader, services: Here) -> DatasetView:
    """One version of a dataset."""
    return DatasetView.model_validate(_found(services, caller, name, version))


@router.delete("/{name}/versions/{version}", status_code=204, responses=problems(404, 409))
def delete_version(name: NamePath, version: VersionPath, caller: Writer, services: Here) -> None:
    """Delete a version, whose number is not given out again, and the pictures that no other version lists.

    The objects follow within the next days.
    """
    with services.db.write() as tx:
        if datasets.find(tx, caller.tenant, name, version) is None:
            raise NotFound(f"there is no dataset {name}@{version}")
        if reason := removal.delete_dataset(tx, caller.tenant, name, version, roles=services.catalogue.roles()):
            raise WrongState(f"{name}@{version} stays: {reason}")


def _found(services: Here, caller: Caller, name: str, version: int | None) -> Any:
    with services.db.read() as tx:
        found = datasets.find(tx, caller.tenant, name, version)
    if found is None:
        raise NotFound(f"there is no dataset {name}" + (f"@{version}" if version is not None else ""))
    return found


def _refuse_doubles(files: list[FileListed]) -> None:
    seen: dict[str, int] = {}
    doubles = [
        FieldProblem(f"/files/{n}/path", f"{file.path} is in the list already, at {first}")
        for n, file in enumerate(files)
        if (first := seen.setdefault(file.path, n)) != n
    ]
    if doubles:
        raise invalid_fields(doubles[:50])
