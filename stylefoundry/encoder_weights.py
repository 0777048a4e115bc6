"""An operator puts an encoder's published weights into the object store, where submits see and workers find them.

Needs the server's and the library's packages, so nothing imports it before `stylefoundry weights add` runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.embedded import stack
from orchestrator.objects import OUTAGES, Objects, weights_key
from orchestrator.settings import Settings
from orchestrator.store.database import Database, db_now
from orchestrator.store.tables import EncoderWeights
from stylefoundry.errors import Unreachable
from stylemodels.checkpoint import save_tensors
from stylemodels.weights import PUBLISHED, Weights, fetch, published_tensors

USED = "features."  # the classifier behind them is six sevenths of the file, and no encoder needs it


class Added(NamedTuple):
    name: str
    sha256: str
    size: int


def add(name: str, source: str, data_dir: Path, *, progress: Callable[[int, int | None], None]) -> Added:
    """Convert torchvision's file to safetensors, upload it, and make it known.

    source: a file, or an address to fetch it from. progress: bytes fetched, of how many.
    Raises ValueError for weights that are not the published ones, Unreachable when a part of the service is away.
    """
    if name not in PUBLISHED:
        raise ValueError(f"{name!r} are no weights of an encoder; known: {', '.join(PUBLISHED)}")
    settings = settings_of(data_dir)
    with TemporaryDirectory(prefix="weights-") as folder:
        path = Path(source)
        if "://" in source:
            path = Path(folder) / PUBLISHED[name].name
            fetch(source, PUBLISHED[name].sha256_prefix, path, progress=progress)
        elif not path.is_file():
            raise ValueError(f"{source}: there is no such file")
        tensors = published_tensors(name, Weights(paths={name: path}))
        converted = Path(folder) / "converted"
        save_tensors({key: tensor for key, tensor in tensors.items() if key.startswith(USED)}, converted)
        return publish(settings, name, converted)


def publish(settings: Settings, name: str, path: Path) -> Added:
    """The object first, then the row that says that it is there."""
    with path.open("rb") as file:
        added = Added(name, hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    db = Database(settings.database_url)
    try:
        objects = Objects(settings)
        objects.ensure_bucket()
        objects.put_file(weights_key(added.sha256), path)
        with db.write() as tx:
            tx.merge(EncoderWeights(name=name, sha256=added.sha256, size=added.size, created_at=db_now()))
    except OUTAGES as error:
        raise Unreachable(f"the object store at {settings.s3_url} does not answer: {error}") from error
    except SQLAlchemyError as error:
        raise Unreachable(f"the database cannot be used: {error}") from error
    finally:
        db.dispose()
    return added


def settings_of(data_dir: Path) -> Settings:
    """What the environment names; the rest from the stack of `data_dir`, if one was ever started there."""
    given = Settings()
    found = stack.find(data_dir)
    return given if found is None else found.settings(given)
