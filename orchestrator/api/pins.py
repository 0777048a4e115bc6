"""What a submit names becomes what it means: dataset versions, a picture's digest, a base model, room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from orchestrator import shelf
from orchestrator.catalogue import TaskInfo
from orchestrator.problems import FieldProblem, WrongState, invalid_field
from orchestrator.store import datasets, models
from orchestrator.store.datasets import Pin
from orchestrator.store.jobs import Cluster
from orchestrator.store.tables import Job

STYLE_ROLE = "style"  # the dataset that `style_image` is a path in
LATEST = "latest"


class Resources(NamedTuple):
    workers: int
    min_workers: int
    cpus: int  # of each worker
    gpus: int


def split(reference: str) -> tuple[str, str]:
    """`photos@3` -> photos, 3; without a version it is the latest."""
    name, _, version = reference.partition("@")
    return name, version or LATEST


def roles_problems(
    info: TaskInfo, given: Mapping[str, str], style_image: str | None, base: str | None, base_job: str | None = None
) -> list[FieldProblem]:
    """What the task needs and was not given, or was given and does not take."""
    task = f"{info.method}/{info.task}"
    taken = dict(info.datasets) | ({STYLE_ROLE: "images"} if info.style_image else {})
    found = [
        FieldProblem(f"/datasets/{role}", f"is missing: {task} needs a dataset of kind {kind}")
        for role, kind in taken.items()
        if role not in given
    ]
    found += [
        FieldProblem(f"/datasets/{role}", f"is no dataset of {task}; it takes {', '.join(taken) or 'none'}")
        for role in given
        if role not in taken
    ]
    if info.style_image and style_image is None:
        found.append(FieldProblem("/style_image", f"is missing: {task} needs the path of a picture in datasets.style"))
    if not info.style_image and style_image is not None:
        found.append(FieldProblem("/style_image", f"{task} takes no style image"))
    if info.base_model_required and base is None and base_job is None:
        found.append(FieldProblem("/base_model", f"is missing: {task} starts from a model of {info.base_model}"))
    if info.base_model is None and base is not None:
        found.append(FieldProblem("/base_model", f"{task} takes no base model"))
    if info.base_model is None and base_job is not None:
        found.append(FieldProblem("/base_job", f"{task} takes no base model"))
    if base is not None and base_job is not None:
        found.append(FieldProblem("/base_job", "is one too many: base_model was given too"))
    return found


def pinned_datasets(tx: Session, tenant: str, info: TaskInfo, given: Mapping[str, str]) -> dict[str, Pin]:
    """The ready versions that the references mean. Raises Invalid that names the field and what is wrong."""
    found = {
        role: pinned_dataset(tx, tenant, role, info.datasets.get(role), reference) for role, reference in given.items()
    }
    for role, pin in found.items():
        if info.datasets.get(role) == "labelled" and pin.class_counts is not None:
            _check_classes(role, pin, pin.class_counts, info)
    return found


def pinned_dataset(tx: Session, tenant: str, role: str, kind: str | None, reference: str) -> Pin:
    """The ready version that a reference means."""
    pointer = f"/datasets/{role}"
    name, version = split(reference)
    if version != LATEST and not (version.isdigit() and len(version) <= 9):
        raise invalid_field(pointer, f"{reference}: a version of a dataset is a number or latest")
    pin = datasets.pin(tx, tenant, name, None if version == LATEST else int(version))
    if pin is None:
        raise invalid_field(pointer, f"there is no dataset {reference}")
    if pin.status == "ingesting":
        raise invalid_field(pointer, f"{name}@{pin.version} is still ingesting: wait until it is ready")
    if pin.status != "ready":
        raise invalid_field(pointer, f"{name}@{pin.version} was rejected: {pin.error}")
    if kind is not None and pin.kind != kind and kind == "labelled":
        raise invalid_field(pointer, f"{name}@{pin.version} is of kind {pin.kind}, this needs {kind}")
    return pin


def _check_classes(role: str, pin: Pin, counts: Mapping[str, int], info: TaskInfo) -> None:
    """Raises Invalid with the class that has too few pictures, or where there are too few classes."""
    task, name = f"{info.method}/{info.task}", f"{pin.name}@{pin.version}"
    if len(counts) < info.min_classes:
        detail = f"{name} has the classes {', '.join(sorted(counts))}: {task} needs {info.min_classes} at least"
        raise invalid_field(f"/datasets/{role}", detail)
    for class_name, there in sorted(counts.items()):
        if there < info.min_per_class:
            have = f"{there} picture{'' if there == 1 else 's'}"
            detail = f"{name}: class {class_name!r} has {have}, {task} needs {info.min_per_class} of each class"
            raise invalid_field(f"/datasets/{role}", detail)


def pinned_style(tx: Session, tenant: str, path: str | None, pins: Mapping[str, Pin]) -> dict[str, str] | None:
    """The style picture by its digest. Raises Invalid when the dataset does not hold it."""
    if path is None:
        return None
    style = pins[STYLE_ROLE]
    sha256 = datasets.picture(tx, tenant, style.name, style.version, path)
    if sha256 is None:
        raise invalid_field("/style_image", f"{style.name}@{style.version} has no usable picture {path}")
    return {"path": path, "sha256": sha256}


def pinned_base(tx: Session, tenant: str, info: TaskInfo, reference: str | None) -> dict[str, Any] | None:
    """The base model with its config and files. Raises Invalid when there is none, or of another method or task."""
    if reference is None:
        return None
    name, version = split(reference)
    found = shelf.find(tx, tenant, name, version)
    if found is None:
        raise invalid_field("/base_model", f"there is no model {reference}")
    model = found.model
    if f"{model.method}/{model.task}" != info.base_model:
        detail = f"{name}@{model.version} is of {model.method}/{model.task}, this task starts from {info.base_model}"
        raise invalid_field("/base_model", detail)
    return models.pin(model)


def check_still_there(tx: Session, job: Job) -> None:
    """Raises WrongState where a dataset or the base model of a job that is to be done again was deleted."""
    for pin in job.datasets.values():
        if datasets.pin(tx, job.tenant_id, pin["name"], pin["version"]) is None:
            raise WrongState(f"{job.id} needs the dataset {pin['name']}@{pin['version']}, which was deleted")
    base = job.base_model
    if base is not None and shelf.find(tx, job.tenant_id, base["name"], str(base["version"])) is None:
        raise WrongState(f"{job.id} needs the model {base['name']}@{base['version']}, which was deleted")


def resources(cluster: Cluster, workers: int, min_workers: int | None, cpus: int | None, gpus: int | None) -> Resources:
    """What each worker gets: by default a GPU where the cluster has one, and a core.

    Raises Invalid for what the cluster could never give; as long as nobody has seen a cluster everything is taken.
    """
    if gpus is None:
        gpus = 1 if cpus is None and cluster.gpus else 0
    fewest = workers if min_workers is None else min_workers
    if fewest > workers:
        raise invalid_field("/resources/min_workers", f"{fewest} were given, but resources.workers is {workers}")
    asked = Resources(workers, fewest, cpus or 1, gpus)
    if not cluster.is_known:
        return asked
    for pointer, what, wanted, there in (
        ("/resources/cpus_per_worker", "cores", asked.cpus * fewest, cluster.cpus or 0),
        ("/resources/gpus_per_worker", "GPUs", asked.gpus * fewest, cluster.gpus or 0),
    ):
        if wanted > there:
            raise invalid_field(pointer, f"{wanted} {what} were asked for, the whole cluster has {there}")
    return asked


def check_shared_out(info: TaskInfo, config: Mapping[str, Any], workers: int) -> None:
    """Raises Invalid when a step of this task cannot be shared out to so many workers."""
    if workers == 1:
        return
    if info.shared_out is None:
        raise invalid_field("/resources/workers", f"{workers} were given, {info.method}/{info.task} trains on one")
    if (most := int(config[info.shared_out])) < workers:
        detail = f"{workers} were given, but config.{info.shared_out} is {most}: some would have nothing to do"
        raise invalid_field("/resources/workers", detail)
