"""The models that a caller has: its own, and those that come with the package, which everybody has.

Built-in ones need no rows: what they are stands in the package, and their bytes lie in the object store under their
digest, so any number of processes, of several releases at once, agree. A model of one's own hides a built-in one of the
same name, with all its versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sqlalchemy.orm import Session

from orchestrator.objects import Corrupt, Missing, Objects, builtin_prefix
from orchestrator.store import models
from orchestrator.store.models import LATEST, Version
from orchestrator.store.tables import ModelVersion
from stylemodels.builtin import BuiltinModel, builtin_models

VERSION = 1  # the only one that a built-in model has


def find(tx: Session, tenant: str, name: str, version: str = LATEST) -> Version | None:
    """A version by its number or by an alias."""
    found = models.find(tx, tenant, name, version)
    if found is None and name in builtin_versions() and not models.owned(tx, tenant, [name]):
        return builtin_versions()[name] if version in (LATEST, str(VERSION)) else None
    return found


def newest_of_method(tx: Session, tenant: str, method: str, task: str = "") -> Version | None:
    """What a method (or one task of it) published last for the tenant; else a built-in model of it."""
    if (own := models.newest_of_method(tx, tenant, method, task)) is not None:
        return own
    fitting = [v for v in offered(tx, tenant) if v.model.method == method and task in ("", v.model.task)]
    return fitting[0] if fitting else None


def page(tx: Session, tenant: str, *, after: str | None, limit: int) -> list[Version]:
    """The newest version of every model, in the order of names, those with names above `after`."""
    own = models.page(tx, tenant, after=after, limit=limit)
    others = [version for version in offered(tx, tenant) if after is None or version.model.name > after]
    return sorted(own + others, key=lambda version: version.model.name)[:limit]


def offered(tx: Session, tenant: str) -> list[Version]:
    """The built-in models that no model of the tenant's own hides, in the order of names."""
    hidden = models.owned(tx, tenant, list(builtin_versions()))
    return [version for name, version in builtin_versions().items() if name not in hidden]


def versions(tx: Session, tenant: str, name: str, *, before: int | None, limit: int) -> list[Version]:
    """The versions of one model, newest first, those with numbers below `before`."""
    own = models.versions(tx, tenant, name, before=before, limit=limit)
    if own or before is not None:
        return own
    found = find(tx, tenant, name)
    return [] if found is None else [found]


@cache
def builtin_versions() -> Mapping[str, Version]:
    """What the package holds, by name, as versions that no database knows."""
    return {name: _version(model) for name, model in _package().items()}


@cache
def _package() -> Mapping[str, BuiltinModel]:
    """Read once: what is shown and what is stocked are the same."""
    return builtin_models()


def stock(objects: Objects) -> None:
    """Put the built-in models' files into the object store; what is there and whole is left alone.

    Several processes may do it, as often as they like. Raises the object store's errors, also where another one is
    writing the same object at this moment: repeat it.
    """
    for model in _package().values():
        for file in model.files:
            key = f"{builtin_prefix(model.sha256)}/{file.path}"
            if not _is_whole(objects, key, file.sha256):
                objects.put_file(key, model.folder / file.path)


def _is_whole(objects: Objects, key: str, sha256: str) -> bool:
    try:
        objects.get(key, sha256=sha256)
    except (Missing, Corrupt):
        return False
    return True


def _version(builtin: BuiltinModel) -> Version:
    model = ModelVersion(
        name=builtin.name,
        version=VERSION,
        method=builtin.description["method"],
        task=builtin.description["task"],
        prefix=builtin_prefix(builtin.sha256),
        files=[file._asdict() for file in builtin.files],
        config=builtin.description["config"],
        lineage={"job": None, "datasets": {}, "base_model": None, "code": None},
    )
    return Version(model, [LATEST], builtin=True)
