"""Deletion: rows go at once, if nothing that stays needs them; their objects follow by the sweep (`dispatch/sweep.py`).

Each function says what still needs the thing, in words for people, or deletes it. Numbers of versions are not given out
again, so a reference never comes to mean something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from orchestrator.states import TERMINAL
from orchestrator.store import comparisons
from orchestrator.store.inserts import conflict_insert
from orchestrator.store.tables import (
    Blob,
    DatasetVersion,
    Dependency,
    Job,
    ModelAlias,
    ModelVersion,
    RetiredVersion,
    Tenant,
)

AT_ONCE = 500  # digests in one statement
DATASET, MODEL = "dataset", "model"  # kinds of retired versions


def delete_job(tx: Session, job: Job) -> str | None:
    """Delete a job that has ended, with its history, checkpoints and samples; or what needs it."""
    _hold_tenant(tx, job.tenant_id)
    if reason := _needs_job(tx, job):
        return reason
    tx.execute(delete(Job).where(Job.id == job.id, Job.status.in_(TERMINAL)))  # all else goes with it
    return None


def _needs_job(tx: Session, job: Job) -> str | None:
    model = tx.execute(select(ModelVersion.name, ModelVersion.version).where(ModelVersion.job_id == job.id)).first()
    if model is not None:
        return f"the model {model.name}@{model.version} is of this job: delete that first"
    waiting = tx.scalar(select(Dependency.job_id).where(Dependency.awaited == job.id).limit(1))
    if waiting is not None:
        return f"{waiting} depends on it"
    resumed = _unfinished(tx, job.tenant_id, Job.start_from["job"].as_string() == job.id)
    if resumed is not None:
        return f"{resumed} goes on from its checkpoint"
    if job.group_id is not None and (other := _unfinished(tx, job.tenant_id, Job.group_id == job.group_id)):
        return f"{other}, of the same {job.group_id}, has not ended"
    return None


def delete_model(tx: Session, model: ModelVersion) -> str | None:
    """Delete a version of a model; or what needs it."""
    _hold_tenant(tx, model.tenant_id)
    me = (ModelVersion.tenant_id == model.tenant_id, ModelVersion.name == model.name)
    alias = tx.scalar(
        select(ModelAlias.alias)
        .where(
            ModelAlias.tenant_id == model.tenant_id,
            ModelAlias.name == model.name,
            ModelAlias.version == model.version,
        )
        .limit(1)
    )
    if alias is not None:
        return f"the alias {alias} means it: move or delete that first"
    if (job := _unfinished(tx, model.tenant_id, _names(Job.base_model, model.name, model.version))) is not None:
        return f"{job} starts from it"
    if (comparison := comparisons.using(tx, model.tenant_id, model.name, model.version)) is not None:
        return f"{comparison} draws with it"
    tx.execute(delete(ModelVersion).where(*me, ModelVersion.version == model.version))
    _retire(tx, model.tenant_id, MODEL, model.name, model.version)
    return None


def delete_dataset(tx: Session, tenant: str, name: str, version: int, *, roles: Iterable[str]) -> str | None:
    """Delete a version of a dataset, its ingest, and the pictures that no other version holds; or what needs it.

    roles: under which jobs name datasets.
    """
    _hold_tenant(tx, tenant)
    me = (DatasetVersion.tenant_id == tenant, DatasetVersion.name == name, DatasetVersion.version == version)
    row = tx.execute(select(DatasetVersion.status, DatasetVersion.files).where(*me)).one()
    if row.status == "ingesting":
        return "its ingest has not ended"
    named = or_(*(_names(Job.datasets[role], name, version) for role in roles))
    if (job := _unfinished(tx, tenant, named)) is not None:
        return f"{job} trains with it"
    tx.execute(delete(DatasetVersion).where(*me))
    ingest = (Job.tenant_id == tenant, Job.kind == "ingest", _names(Job.config, name, version))
    tx.execute(delete(Job).where(*ingest, Job.status.in_(TERMINAL)))
    _retire(tx, tenant, DATASET, name, version)
    _forget_pictures(tx, tenant, {file["sha256"] for file in row.files})
    return None


def retired(tx: Session, tenant: str, kind: str, name: str) -> int:
    """The highest version of a name that was deleted; 0 where none was."""
    query = select(RetiredVersion.version).where(
        RetiredVersion.tenant_id == tenant, RetiredVersion.kind == kind, RetiredVersion.name == name
    )
    return tx.scalar(query) or 0


def delete_alias(tx: Session, tenant: str, name: str, alias: str) -> bool:
    """True when there was one."""
    me = (ModelAlias.tenant_id == tenant, ModelAlias.name == name, ModelAlias.alias == alias)
    return tx.execute(delete(ModelAlias).where(*me).returning(ModelAlias.alias)).one_or_none() is not None


def _hold_tenant(tx: Session, tenant: str) -> None:
    """One deletion of a tenant at a time; jobs that are being made (their foreign key holds the row) come before."""
    tx.execute(select(Tenant.id).where(Tenant.id == tenant).with_for_update(key_share=True))


def _unfinished(tx: Session, tenant: str, condition: ColumnElement[bool]) -> str | None:
    """A training job of the tenant that has not ended and for which `condition` holds."""
    query = select(Job.id).where(Job.tenant_id == tenant, Job.kind == "train", Job.status.not_in(TERMINAL), condition)
    return tx.scalar(query.order_by(Job.id).limit(1))


def _names(column: Any, name: str, version: int) -> ColumnElement[bool]:
    """Whether a JSON object says this name and version."""
    return and_(column["name"].as_string() == name, column["version"].as_integer() == version)


def _retire(tx: Session, tenant: str, kind: str, name: str, version: int) -> None:
    insert = conflict_insert(tx.get_bind().dialect.name, RetiredVersion).values(
        tenant_id=tenant, kind=kind, name=name, version=version
    )
    keys = ["tenant_id", "kind", "name"]
    higher = RetiredVersion.version < insert.excluded.version
    tx.execute(insert.on_conflict_do_update(index_elements=keys, set_={"version": version}, where=higher))


def _forget_pictures(tx: Session, tenant: str, digests: set[str]) -> None:
    """Pictures that no version lists any more; the next upload asks for them again."""
    mine = DatasetVersion.tenant_id == tenant
    left = tx.execute(select(DatasetVersion.name, DatasetVersion.version).where(mine)).all()
    for name, version in left:  # one by one: such a list may be long
        this = (mine, DatasetVersion.name == name, DatasetVersion.version == version)
        digests -= {file["sha256"] for file in tx.scalars(select(DatasetVersion.files).where(*this)).one()}
        if not digests:
            return
    for chunk in _chunks(sorted(digests)):
        tx.execute(delete(Blob).where(Blob.tenant_id == tenant, Blob.sha256.in_(chunk)))


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
