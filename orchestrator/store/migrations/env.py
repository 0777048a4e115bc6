"""Alembic's way in. It always works on the connection of `orchestrator.store.migrate`, in its transaction."""

from __future__ import annotations

from alembic import context

from orchestrator.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
