"""Scopes, expiry and rotation of keys, audit, webhooks, deletion, storage quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MODEL_BYTES = {
    "sqlite": "(SELECT COALESCE(SUM(json_extract(file.value, '$.size')), 0) FROM json_each(files) AS file)",
    "postgresql": "(SELECT COALESCE(SUM((file->>'size')::bigint), 0) FROM jsonb_array_elements(files) AS file)",
}


def upgrade() -> None:
    _keys()
    _audit()
    _deletion()
    _webhooks()
    op.add_column("tenants", sa.Column("max_bytes", sa.BigInteger(), nullable=True))
    op.add_column("model_versions", sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(f"UPDATE model_versions SET bytes = {MODEL_BYTES[op.get_bind().dialect.name]}")


def _keys() -> None:
    scopes = sa.Column("scopes", sa.Text(), nullable=False, server_default="read submit write stylize")
    op.add_column("api_keys", scopes)
    op.add_column("api_keys", sa.Column("previous_sha256", sa.Text(), nullable=True))
    for name in ("previous_until", "expires_at", "last_used_at"):
        op.add_column("api_keys", sa.Column(name, sa.Double(), nullable=True))
    op.create_index("ix_api_keys_previous_sha256", "api_keys", ["previous_sha256"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("made", sa.Text(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_tenant", "audit", ["tenant_id", "id"])


def _deletion() -> None:
    op.create_table(
        "retired_versions",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_retired_versions_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "kind", "name", name="pk_retired_versions"),
    )


def _webhooks() -> None:
    op.add_column("jobs", sa.Column("webhook", Json, nullable=True))
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_secrets_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_secrets"),
    )
    op.create_index("ix_webhook_secrets_tenant_id", "webhook_secrets", ["tenant_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("answer", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_deliveries_tenant_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_webhook_deliveries_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index("ix_webhook_deliveries_job_id", "webhook_deliveries", ["job_id"])
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["status", "next_at"])
    op.create_index("ix_webhook_deliveries_tenant", "webhook_deliveries", ["tenant_id", "id"])
