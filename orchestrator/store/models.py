"""Models: published versions and the names that users give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.store.inserts import conflict_insert
from orchestrator.store.tables import EncoderWeights, ModelAlias, ModelVersion

LATEST = "latest"  # the highest version, always


class Version(NamedTuple):
    """A version with the aliases that point to it."""

    model: ModelVersion
    aliases: list[str]
    builtin: bool = False  # comes with the package: no row, no job, no date


def find(tx: Session, tenant: str, name: str, version: str = LATEST) -> Version | None:
    """A version by its number or by an alias."""
    query = select(ModelVersion).where(ModelVersion.tenant_id == tenant, ModelVersion.name == name)
    if version == LATEST:
        query = query.order_by(ModelVersion.version.desc()).limit(1)
    elif version.isascii() and version.isdigit():
        if len(version) > 9:
            return None
        query = query.where(ModelVersion.version == int(version))
    else:
        aliased = select(ModelAlias.version).where(
            ModelAlias.tenant_id == tenant, ModelAlias.name == name, ModelAlias.alias == version
        )
        query = query.where(ModelVersion.version == aliased.scalar_subquery())
    model = tx.scalars(query).one_or_none()
    return None if model is None else _with_aliases(tx, tenant, [model])[0]


def of_job(tx: Session, job_id: str) -> ModelVersion | None:
    """What a job has published."""
    return tx.scalars(select(ModelVersion).where(ModelVersion.job_id == job_id)).one_or_none()


def pin(model: ModelVersion) -> dict[str, Any]:
    """What a job that starts from a model keeps of it: its config and files, by their digests."""
    return {
        "name": model.name,
        "version": model.version,
        "prefix": model.prefix,
        "method": model.method,
        "task": model.task,
        "config": model.config,
        "files": model.files,
    }


def page(tx: Session, tenant: str, *, after: str | None, limit: int) -> list[Version]:
    """The newest version of every model, in the order of names, those with names above `after`."""
    newest = (
        select(ModelVersion.name, func.max(ModelVersion.version).label("version"))
        .where(ModelVersion.tenant_id == tenant, *([] if after is None else [ModelVersion.name > after]))
        .group_by(ModelVersion.name)
        .order_by(ModelVersion.name)
        .limit(limit)
        .subquery()
    )
    query = (
        select(ModelVersion)
        .join(newest, (ModelVersion.name == newest.c.name) & (ModelVersion.version == newest.c.version))
        .where(ModelVersion.tenant_id == tenant)
        .order_by(ModelVersion.name)
    )
    return _with_aliases(tx, tenant, tx.scalars(query).all())


def versions(tx: Session, tenant: str, name: str, *, before: int | None, limit: int) -> list[Version]:
    """The versions of one model, newest first, those with numbers below `before`."""
    query = select(ModelVersion).where(ModelVersion.tenant_id == tenant, ModelVersion.name == name)
    if before is not None:
        query = query.where(ModelVersion.version < before)
    return _with_aliases(tx, tenant, tx.scalars(query.order_by(ModelVersion.version.desc()).limit(limit)).all())


def newest_of_method(tx: Session, tenant: str, method: str, task: str = "") -> Version | None:
    """The model that a method (or one task of it) published last."""
    query = select(ModelVersion).where(ModelVersion.tenant_id == tenant, ModelVersion.method == method)
    if task:
        query = query.where(ModelVersion.task == task)
    newest = query.order_by(ModelVersion.created_at.desc(), ModelVersion.name, ModelVersion.version.desc()).limit(1)
    model = tx.scalars(newest).one_or_none()
    return None if model is None else _with_aliases(tx, tenant, [model])[0]


def set_alias(tx: Session, tenant: str, name: str, alias: str, version: int) -> None:
    """Let `alias` point to a version, wherever it pointed before."""
    insert = conflict_insert(tx.get_bind().dialect.name, ModelAlias).values(
        tenant_id=tenant, name=name, alias=alias, version=version
    )
    tx.execute(insert.on_conflict_do_update(index_elements=["tenant_id", "name", "alias"], set_={"version": version}))


def owned(tx: Session, tenant: str, names: Sequence[str]) -> set[str]:
    """Those of `names` that the tenant has models of."""
    query = select(ModelVersion.name).where(ModelVersion.tenant_id == tenant, ModelVersion.name.in_(names))
    return set(tx.scalars(query.distinct()))


def has_weights(tx: Session, encoder_weights: str) -> bool:
    """True when `stylefoundry weights add` has put these into the object store."""
    return tx.scalar(select(EncoderWeights.name).where(EncoderWeights.name == encoder_weights)) is not None


def _with_aliases(tx: Session, tenant: str, found: Sequence[ModelVersion]) -> list[Version]:
    if not found:
        return []
    names = {model.name for model in found}
    aliases = tx.execute(
        select(ModelAlias.name, ModelAlias.version, ModelAlias.alias)
        .where(ModelAlias.tenant_id == tenant, ModelAlias.name.in_(names))
        .order_by(ModelAlias.alias)
    ).all()
    newest = select(ModelVersion.name, func.max(ModelVersion.version)).where(
        ModelVersion.tenant_id == tenant, ModelVersion.name.in_(names)
    )
    highest = {row[0]: row[1] for row in tx.execute(newest.group_by(ModelVersion.name))}
    return [
        Version(
            model,
            [LATEST] * (highest[model.name] == model.version)
            + [alias for name, version, alias in aliases if (name, version) == (model.name, model.version)],
        )
        for model in found
    ]
