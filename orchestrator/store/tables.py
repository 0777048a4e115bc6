"""The tables: the only truth of the service. One class a table, one line a column.

Instants are seconds since 1970 (UTC) by the database's clock, so both databases compare them alike. Rows that a worker
writes carry its attempt: only the rows of the job's newest attempt are made, older ones are refused at the job's row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Double, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
JsonDict = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy's own declaration
        JsonDict: Json,
        list[Any]: Json,
        float: Double,
        int: BigInteger,
        bool: Boolean,
        str: Text,
    }


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)  # tenant_…
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)  # key_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # the first characters, to tell keys apart in lists
    sha256: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class IdempotencyKey(Base):
    """What a `POST` with an `Idempotency-Key` made; written in the transaction that made it."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]  # sha256 of verb, path and body
    status: Mapped[int] = mapped_column(Integer)
    resource: Mapped[str]  # the id, or name/version, of what was made
    created_at: Mapped[float] = mapped_column(index=True)


class Blob(Base):
    """A picture that an ingest has read and checked; `exists` in the answer to an upload."""

    __tablename__ = "blobs"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    created_at: Mapped[float]


class DatasetVersion(Base):
    __tablename__ = "dataset_versions"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str]  # images | labelled
    status: Mapped[str]  # ingesting | ready | rejected
    files: Mapped[list[Any]]  # [{"path", "sha256"}] as committed
    list_digest: Mapped[str]  # sha256 over kind and the sorted files
    hash: Mapped[str | None]  # sha256 over the digests of the pictures that are in: what a job's data is
    count: Mapped[int | None] = mapped_column(Integer)
    bytes: Mapped[int | None]
    classes: Mapped[list[Any]]
    refused: Mapped[list[Any]]  # [{"path", "reason"}]
    paths: Mapped[JsonDict]  # path -> sha256 of every picture that is in, doubles too: what `style_image` may name
    error: Mapped[str | None]
    prefix: Mapped[str | None]  # where manifest.json and the shards lie
    created_at: Mapped[float]


class Job(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)  # job_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]  # train | ingest: an ingest is an attempt of the queue like any other, but no job of the user
    method: Mapped[str]
    task: Mapped[str]
    name: Mapped[str]
    config: Mapped[JsonDict]  # complete
    datasets: Mapped[JsonDict]  # role -> {"name", "version", "hash", "prefix"}, pinned
    style_image: Mapped[JsonDict | None]  # {"path", "sha256"}
    base_model: Mapped[JsonDict | None]  # {"name", "version", "prefix"}, pinned
    cpus: Mapped[int] = mapped_column(Integer)  # of each worker
    gpus: Mapped[int] = mapped_column(Integer)
    workers: Mapped[int] = mapped_column(Integer)
    min_workers: Mapped[int] = mapped_column(Integer)  # fewer than `workers`: an attempt may start with as many as fit
    seed: Mapped[int]
    publish_as: Mapped[str]
    tags: Mapped[JsonDict]
    priority: Mapped[int] = mapped_column(Integer)
    max_retries: Mapped[int] = mapped_column(Integer)
    timeout_s: Mapped[float | None]
    keep_checkpoints: Mapped[int] = mapped_column(Integer)
    parent: Mapped[str | None] = mapped_column(index=True)
    start_from: Mapped[JsonDict | None]  # a retry's checkpoint: {"job", "attempt", "step", "prefix", "manifest_sha256"}

    status: Mapped[str]
    attempt: Mapped[int] = mapped_column(Integer)  # 0 before the first; what a worker's writes are fenced by
    charged: Mapped[int] = mapped_column(Integer)  # failures that count against max_retries
    events: Mapped[int]  # id of the newest event
    lease_owner: Mapped[str | None]  # the dispatcher that places it, then the actor's name
    lease_until: Mapped[float | None]
    not_before: Mapped[float]  # back-off after a fault: no claim earlier
    step: Mapped[int]
    total_steps: Mapped[int]
    images_per_second: Mapped[float | None]
    running_s: Mapped[float]  # over finished attempts
    error: Mapped[JsonDict | None]  # {"type", "message", "attempt"}
    model_version: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]

    __table_args__ = (
        Index("ix_jobs_queue", "status", "kind", priority.desc(), "id"),
        Index("ix_jobs_tenant", "tenant_id", "kind", "id"),
    )


class JobTag(Base):
    __tablename__ = "job_tags"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    __table_args__ = (Index("ix_job_tags_key_value", "key", "value"),)


class Attempt(Base):
    __tablename__ = "attempts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    workers: Mapped[int] = mapped_column(Integer)  # that the claim took room for
    actor: Mapped[str | None]  # its name in Ray; of a gang, the first member's
    outcome: Mapped[str | None]  # succeeded | failed | lost | paused | cancelled | expired; None while it goes on
    node: Mapped[str | None]
    pid: Mapped[int | None] = mapped_column(Integer)
    resumed_from: Mapped[int | None]  # step
    claimed_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    error: Mapped[JsonDict | None]


class Event(Base):
    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, … per job, drawn from the job's row
    attempt: Mapped[int] = mapped_column(Integer)
    event: Mapped[str] = mapped_column(String)  # status | metric | log | checkpoint | sample
    at: Mapped[float]
    body: Mapped[JsonDict]


class Metric(Base):
    __tablename__ = "metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float]


class Checkpoint(Base):
    __tablename__ = "checkpoints"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[str]  # ready | damaged | dropped (beyond keep_checkpoints: its objects go)
    prefix: Mapped[str]
    manifest_sha256: Mapped[str]
    files: Mapped[list[Any]]  # [{"path", "size", "sha256"}]
    bytes: Mapped[int]
    created_at: Mapped[float]


class Sample(Base):
    __tablename__ = "samples"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    key: Mapped[str]


class ModelVersion(Base):
    __tablename__ = "model_versions"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    method: Mapped[str]
    task: Mapped[str]
    prefix: Mapped[str]
    files: Mapped[list[Any]]  # [{"path", "size", "sha256"}]
    config: Mapped[JsonDict]
    lineage: Mapped[JsonDict]  # {"job", "datasets", "base_model", "code"}
    created_at: Mapped[float]


class ModelAlias(Base):
    __tablename__ = "model_aliases"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer)


class EncoderWeights(Base):
    """Weights that were put into the object store by `stylefoundry weights add`: what submit can see."""

    __tablename__ = "encoder_weights"
    name: Mapped[str] = mapped_column(primary_key=True)  # vgg16, vgg19, …
    sha256: Mapped[str]
    size: Mapped[int]
    created_at: Mapped[float]


class Ledger(Base):
    """The room of the cluster: one row, taken from and given back in the transactions that move jobs."""

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    cpus: Mapped[int] = mapped_column(Integer)  # that there are
    gpus: Mapped[int] = mapped_column(Integer)
    cpus_taken: Mapped[int] = mapped_column(Integer)
    gpus_taken: Mapped[int] = mapped_column(Integer)
    seen_at: Mapped[float]
