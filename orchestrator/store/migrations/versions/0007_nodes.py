"""What each node of the cluster has, and on which nodes an attempt's workers are; NULL where nobody told.

An older release goes by the sums alone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("ledger", sa.Column("nodes", Json, nullable=True))
    op.add_column("attempts", sa.Column("nodes", Json, nullable=True))
