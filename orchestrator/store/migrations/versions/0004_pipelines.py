"""Dependencies, fan-outs, sweeps, estimates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
JOB_COLUMNS: tuple[sa.Column[object], ...] = (
    sa.Column("depends_on", Json, nullable=False, server_default="[]"),
    sa.Column("blockers", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("base_job", sa.Text()),
    sa.Column("group_id", sa.Text()),
    sa.Column("trial", sa.Integer()),
    sa.Column("rung", sa.Integer()),
    sa.Column("estimate", Json),
)


def upgrade() -> None:
    for column in JOB_COLUMNS:
        op.add_column("jobs", column)
    _partial("ix_jobs_group", ["group_id", "id"], "group_id IS NOT NULL")
    _partial("ix_jobs_measured", ["method", "task", "id"], "status = 'succeeded' AND estimate IS NOT NULL")
    op.create_table(
        "groups",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("cancelled_at", sa.Double()),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_groups_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
    )
    op.create_index("ix_groups_tenant", "groups", ["tenant_id", "kind", "id"])
    op.create_table(
        "dependencies",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("awaited", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_dependencies_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "awaited", name="pk_dependencies"),
    )
    op.create_index("ix_dependencies_awaited", "dependencies", ["awaited", "job_id"])
    op.create_table(
        "endings",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_endings"),
    )
    op.create_table(
        "costs",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("phases", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_costs"),
    )
    op.create_table(
        "devices",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("flops_per_s", sa.Double(), nullable=False),
        sa.Column("bytes_per_s", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_devices"),
    )


def _partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
