"""`stylefoundry backup` and `restore`: of the services that the settings name, else of a data directory's own."""

from __future__ import annotations

from pathlib import Path

from minio.error import MinioException
from sqlalchemy.exc import OperationalError

from orchestrator import backup
from orchestrator.embedded import stack
from orchestrator.objects import OUTAGES, REFUSALS
from orchestrator.settings import Settings
from orchestrator.store.migrate import Outdated

RUNNING = "the object store of a data directory answers only while the stack runs: `stylefoundry up`"


def back_up(data_dir: Path, target: Path, report: backup.Report) -> None:
    """Raises StackError, also when objects that rows need are lost; the rest is in the backup then."""
    try:
        lacking = backup.back_up(_settings(data_dir), target, report)
    except (backup.BackupError, Outdated) as error:
        raise stack.StackError(str(error)) from error
    except (OperationalError, MinioException, *OUTAGES, *REFUSALS) as error:
        raise _away(error) from error
    if lacking:
        raise stack.StackError(
            f"{target} is complete but for {len(lacking)} objects that the object store has lost or damaged, "
            f"the first is {lacking[0]} (manifest.json lists all)"
        )


def restore(data_dir: Path, source: Path, report: backup.Report) -> None:
    """Raises StackError."""
    try:
        backup.restore(_settings(data_dir), source, report)
    except (backup.BackupError, Outdated) as error:
        raise stack.StackError(str(error)) from error
    except (OperationalError, MinioException, *OUTAGES, *REFUSALS) as error:
        raise _away(error) from error


def _settings(data_dir: Path) -> Settings:
    given = stack.read_settings()
    found = stack.find(data_dir)
    return given if found is None else found.settings(given)


def _away(error: Exception) -> stack.StackError:
    cause = getattr(error, "orig", None) or error
    return stack.StackError(f"database or object store cannot be reached: {str(cause).strip()} ({RUNNING})")
