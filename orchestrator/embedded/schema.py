"""`stylefoundry migrate`: on a server too, where the embedded stack's programs are not installed."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from orchestrator.embedded import stack
from orchestrator.store import migrate as migrations


def migrate(folder: Path) -> str:
    """Bring the database of the settings, else that of a data directory, to the newest schema.

    Returns its url without the password. Raises StackError.
    """
    given = stack.read_settings()
    found = stack.find(folder)
    effective = given if found is None else found.settings(given)
    return upgrade(effective.database_url)


def upgrade(database_url: str) -> str:
    """The same for a database that is known. Raises StackError when it cannot be reached."""
    shown = make_url(database_url).render_as_string(hide_password=True)
    try:
        migrations.upgrade(database_url)
    except OperationalError as error:
        raise stack.StackError(f"database {shown} cannot be reached: {str(error.orig).strip()}") from error
    return shown
