"""Which code trains: a digest over the sources that decide a model's bytes."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path


@cache
def code_digest() -> str:
    """sha256 over the sources of `stylemodels` and `workers`, without importing them (torch stays out)."""
    digest = hashlib.sha256()
    for package in ("stylemodels", "workers"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"{package} is not installed: pip install 'stylefoundry[worker]'")
        root = Path(next(iter(spec.submodule_search_locations)))
        for source in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{source.relative_to(root).as_posix()}\0".encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()
