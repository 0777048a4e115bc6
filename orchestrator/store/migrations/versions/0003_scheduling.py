"""Classes, shares, quotas, deadlines."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

json_type = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
lane_key = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
open_with_deadline: dict[str, Any] = {
    f"{name}_where": sa.text("deadline IS NOT NULL AND finished_at IS NULL") for name in ("sqlite", "postgresql")
}

TENANTS: tuple[sa.Column[Any], ...] = (
    sa.Column("weight", sa.Double(), nullable=False, server_default="1"),
    sa.Column("max_cpus", sa.Integer(), nullable=True),
    sa.Column("max_gpus", sa.Integer(), nullable=True),
    sa.Column("max_queued", sa.Integer(), nullable=True),
    sa.Column("classes", json_type, nullable=True),
    sa.Column("cpus_taken", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("gpus_taken", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("cpus_mean", sa.Double(), nullable=False, server_default="0"),
    sa.Column("gpus_mean", sa.Double(), nullable=False, server_default="0"),
    sa.Column("mean_at", sa.Double(), nullable=False, server_default="0"),
)
JOBS: tuple[sa.Column[Any], ...] = (
    sa.Column("class", sa.Text(), nullable=False, server_default="standard"),
    sa.Column("deadline", sa.Double(), nullable=True),
    sa.Column("lane", lane_key, nullable=False, server_default=""),
    sa.Column("queued_at", sa.Double(), nullable=True),
    sa.Column("preemptions", sa.Integer(), nullable=False, server_default="0"),
)
LEDGER: tuple[sa.Column[Any], ...] = (
    sa.Column("warm", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("turn", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("overdue_turn", sa.BigInteger(), nullable=False, server_default="0"),
)
# What the jobs at work hold, for tenants whose jobs were claimed before tenants had accounts.
HELD = """
UPDATE tenants SET {what}_taken = coalesce((
    SELECT sum(jobs.{what} * attempts.workers) FROM jobs
    JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.tenant_id = tenants.id AND jobs.status IN ('starting', 'running', 'pausing', 'cancelling')
), 0)
"""


def upgrade() -> None:
    for table, columns in (("tenants", TENANTS), ("jobs", JOBS), ("ledger", LEDGER)):
        for column in columns:
            op.add_column(table, column)
    op.add_column("attempts", sa.Column("warm", sa.Boolean(), nullable=False, server_default=sa.false()))
    for what in ("cpus", "gpus"):
        op.execute(HELD.format(what=what))
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", "kind", "lane", "deadline", "id"])
    op.create_index("ix_jobs_deadline", "jobs", ["deadline"], **open_with_deadline)
