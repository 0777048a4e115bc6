"""Jobs of several workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("min_workers", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("attempts", sa.Column("workers", sa.Integer(), nullable=False, server_default="1"))
