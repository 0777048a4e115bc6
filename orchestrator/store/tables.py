"""The tables: the only truth of the service. One class a table, one line a column.

Instants are seconds since 1970 (UTC) by the database's clock, so both databases compare them alike. Rows that a worker
writes carry its attempt: only the rows of the job's newest attempt are made, older ones are refused at the job's row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
JsonDict = dict[str, Any]

# Partial indexes, spelled per dialect: only rows that are asked for cost an entry.
GROUPED: dict[str, Any] = {f"{name}_where": text("group_id IS NOT NULL") for name in ("sqlite", "postgresql")}
MEASURED: dict[str, Any] = {
    f"{name}_where": text("status = 'succeeded' AND estimate IS NOT NULL") for name in ("sqlite", "postgresql")
}
WITH_DEADLINE: dict[str, Any] = {
    f"{name}_where": text("deadline IS NOT NULL AND finished_at IS NULL") for name in ("sqlite", "postgresql")
}
# Compared byte by byte on both databases: lanes are walked in this order.
LaneKey = Text().with_variant(Text(collation="C"), "postgresql")


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
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")  # of its share
    max_cpus: Mapped[int | None] = mapped_column(Integer)  # at a time; None: as many as there are
    max_gpus: Mapped[int | None] = mapped_column(Integer)
    max_queued: Mapped[int | None] = mapped_column(Integer)  # a submit beyond it is refused
    classes: Mapped[list[Any] | None]  # of priority that its jobs may have; None: all
    cpus_taken: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # as in the ledger
    gpus_taken: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    cpus_mean: Mapped[float] = mapped_column(default=0.0, server_default="0")  # held lately, fading, as of `mean_at`
    gpus_mean: Mapped[float] = mapped_column(default=0.0, server_default="0")
    mean_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    max_bytes: Mapped[int | None]  # of pictures, datasets, checkpoints and models; None: as much as there is


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)  # key_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # the first characters, to tell keys apart in lists
    sha256: Mapped[str] = mapped_column(unique=True)
    previous_sha256: Mapped[str | None] = mapped_column(index=True)  # before the last rotation,
    previous_until: Mapped[float | None]  # counts until then
    admin: Mapped[bool]  # every scope
    scopes: Mapped[str] = mapped_column(server_default="read submit write stylize")  # with spaces between
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]  # to some minutes
    revoked_at: Mapped[float | None]


class AuditEntry(Base):
    """A request that changed something, or was refused to: who, what, with which result, from where."""

    __tablename__ = "audit"
    id: Mapped[str] = mapped_column(primary_key=True)  # audit_…, in the order of time
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key_id: Mapped[str]
    at: Mapped[float]
    verb: Mapped[str]
    route: Mapped[str]  # the path's template
    resource: Mapped[str]  # what the path names
    made: Mapped[str | None]  # the id, or name/version, of what was made
    status: Mapped[int] = mapped_column(Integer)
    ip: Mapped[str | None]
    __table_args__ = (Index("ix_audit_tenant", "tenant_id", "id"),)


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


class RetiredVersion(Base):
    """The highest version of a name that was deleted: numbers are not given out twice."""

    __tablename__ = "retired_versions"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)  # dataset | model
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer)


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
    class_counts: Mapped[JsonDict | None]  # class -> its pictures; NULL of what is not labelled or older than this
    refused: Mapped[list[Any]]  # [{"path", "reason"}]
    paths: Mapped[JsonDict]  # path -> sha256 of every picture that is in, doubles too: what `style_image` may name
    error: Mapped[str | None]
    prefix: Mapped[str | None]  # where manifest.json and the shards lie
    created_at: Mapped[float]


class Job(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)  # job_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]  # train: what takes room, comparisons too | ingest: an attempt like any other, but no user's job
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
    class_: Mapped[str] = mapped_column("class", default="standard", server_default="standard")
    priority: Mapped[int] = mapped_column(Integer)  # within the class
    deadline: Mapped[float | None]  # a job that has not ended by then expires
    lane: Mapped[str] = mapped_column(LaneKey, default="", server_default="")  # `lanes.key_of`: jobs alike to the queue
    queued_at: Mapped[float | None]  # waits from then on, where that is not `created_at`
    preemptions: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    max_retries: Mapped[int] = mapped_column(Integer)
    timeout_s: Mapped[float | None]
    keep_checkpoints: Mapped[int] = mapped_column(Integer)
    parent: Mapped[str | None] = mapped_column(index=True)
    start_from: Mapped[JsonDict | None]  # a retry's checkpoint: {"job", "attempt", "step", "prefix", "manifest_sha256"}
    webhook: Mapped[JsonDict | None]  # {"url", "events"}: statuses that are told
    depends_on: Mapped[list[Any]] = mapped_column(server_default="[]")  # job ids; those still awaited: `Dependency`
    blockers: Mapped[int] = mapped_column(Integer, server_default="0")  # how many of them have not succeeded yet
    base_job: Mapped[str | None]  # whose model it starts from; `base_model` once that is published
    group_id: Mapped[str | None]  # the fan-out or sweep that it belongs to
    trial: Mapped[int | None] = mapped_column(Integer)  # of a sweep, from 1
    rung: Mapped[int | None] = mapped_column(Integer)  # of a sweep that stops trials early, from 0
    estimate: Mapped[JsonDict | None]  # {"raw_s", "seconds", "low", "high", "basis"}, made before it began

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
        Index("ix_jobs_queue", "status", "kind", "lane", "deadline", "id"),
        Index("ix_jobs_deadline", "deadline", **WITH_DEADLINE),
        Index("ix_jobs_tenant", "tenant_id", "kind", "id"),
        Index("ix_jobs_group", "group_id", "id", **GROUPED),
        Index("ix_jobs_measured", "method", "task", "id", **MEASURED),
    )


class Group(Base):
    """Jobs that one request made: a fan-out, or a sweep."""

    __tablename__ = "groups"
    id: Mapped[str] = mapped_column(primary_key=True)  # fanout_… | sweep_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]  # fanout | sweep
    name: Mapped[str]
    spec: Mapped[JsonDict]  # what was asked for, complete
    created_at: Mapped[float]
    cancelled_at: Mapped[float | None]  # from then on it makes no more jobs
    __table_args__ = (Index("ix_groups_tenant", "tenant_id", "kind", "id"),)


class Dependency(Base):
    """A job waits for another one; the row goes when that one has ended and its consequence is drawn."""

    __tablename__ = "dependencies"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    awaited: Mapped[str] = mapped_column(primary_key=True)  # no foreign key: nobody may wait for ever for a deleted job
    __table_args__ = (Index("ix_dependencies_awaited", "awaited", "job_id"),)


class Ending(Base):
    """A job that has ended and that others wait for, or a sweep; written by the transaction that ends it.

    The row goes when a dispatcher has drawn all consequences.
    """

    __tablename__ = "endings"
    job_id: Mapped[str] = mapped_column(primary_key=True)


class Cost(Base):
    """What one training step of a task costs at certain settings, counted once."""

    __tablename__ = "costs"
    key: Mapped[str] = mapped_column(primary_key=True)  # sha256 over code, task and the settings that matter
    phases: Mapped[list[Any]]  # [{"name", "steps", "flops", "bytes", "peak_bytes"}], of one step each
    created_at: Mapped[float]


class Device(Base):
    """How fast a kind of device is, as a worker measured it."""

    __tablename__ = "devices"
    name: Mapped[str] = mapped_column(primary_key=True)  # cpu, or what a GPU calls itself
    flops_per_s: Mapped[float]  # of a matrix product, on one core or one GPU
    bytes_per_s: Mapped[float]  # read and written by an addition
    measured_at: Mapped[float]


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
    warm: Mapped[bool] = mapped_column(default=False, server_default=false())  # on a warm worker: no room was taken
    actor: Mapped[str | None]  # its name in Ray; of a gang, the first member's
    outcome: Mapped[str | None]  # succeeded | failed | lost | paused | preempted | cancelled | expired; None: at work
    node: Mapped[str | None]
    nodes: Mapped[JsonDict | None]  # where the claim put its workers: {"id in Ray": workers}; None: anywhere
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
    bytes: Mapped[int] = mapped_column(server_default="0")
    config: Mapped[JsonDict]
    lineage: Mapped[JsonDict]  # {"job", "datasets", "base_model", "code"}
    created_at: Mapped[float]


class ModelAlias(Base):
    __tablename__ = "model_aliases"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer)


class WebhookSecret(Base):
    """What a tenant's webhooks are signed with: the newest, and until they end those before it."""

    __tablename__ = "webhook_secrets"
    id: Mapped[str] = mapped_column(primary_key=True)  # secret_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    secret: Mapped[str]  # whsec_…: it signs, so a digest would not do
    created_at: Mapped[float]
    expires_at: Mapped[float | None]


class WebhookDelivery(Base):
    """A change of status that somebody wants to be told; written in the transaction of the change."""

    __tablename__ = "webhook_deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)  # delivery_…: the receiver's `webhook-id`, the same at every try
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    event: Mapped[str]  # job.succeeded, …
    data: Mapped[JsonDict]  # what is told
    url: Mapped[str]
    status: Mapped[str]  # pending | delivered | dead
    tries: Mapped[int] = mapped_column(Integer)
    next_at: Mapped[float]  # of a pending one: no try earlier
    answer: Mapped[int | None] = mapped_column(Integer)  # status of the last answer
    error: Mapped[str | None]  # of the last try
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "status", "next_at"),
        Index("ix_webhook_deliveries_tenant", "tenant_id", "id"),
    )


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
    warm: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # warm workers that are ready
    turn: Mapped[int] = mapped_column(default=0, server_default="0")  # counts claims: a decision is about one state
    overdue_turn: Mapped[int] = mapped_column(default=0, server_default="0")  # of the last claim for an overdue job
    nodes: Mapped[JsonDict | None]  # of several: {"id in Ray": [cpus, gpus]}; None: one node, or one pool
    seen_at: Mapped[float]
