"""Models that come with the package: one folder each under `models_data`, as `export.write_model` leaves it.

Needs no torch: the orchestrator shows and hands out these models without ever loading one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

MODELS_DATA = Path(__file__).parent / "models_data"
CONFIG_FILE = "config.json"


class File(NamedTuple):
    """A file of a model; `path` is relative to its folder, with `/`."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class BuiltinModel:
    """A folder of the package."""

    name: str
    folder: Path
    description: Mapping[str, Any]  # what its config.json says
    files: tuple[File, ...]  # in the order of their paths

    @property
    def sha256(self) -> str:
        """Over the names and digests of its files: another release's model of the same name has another one."""
        listed = "".join(f"{file.path}\0{file.sha256}\n" for file in self.files)
        return hashlib.sha256(listed.encode()).hexdigest()


def builtin_models(root: Path = MODELS_DATA) -> dict[str, BuiltinModel]:
    """Every model below `root`, in the order of names."""
    folders = sorted(path.parent for path in root.glob(f"*/{CONFIG_FILE}"))
    return {folder.name: read_builtin(folder) for folder in folders}


def read_builtin(folder: Path) -> BuiltinModel:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    description = json.loads((folder / CONFIG_FILE).read_text())
    return BuiltinModel(folder.name, folder, description, tuple(_file(folder, path) for path in paths))


def builtin_folder(name: str) -> Path:
    """Where the model of this name lies. Raises ValueError that says which there are."""
    folder = MODELS_DATA / name
    if Path(name).name != name or not (folder / CONFIG_FILE).is_file():
        there = ", ".join(builtin_models()) or "none"
        raise ValueError(f"there is no built-in model {name!r}; there are {there}")
    return folder


def _file(folder: Path, path: Path) -> File:
    content = path.read_bytes()
    return File(path.relative_to(folder).as_posix(), len(content), hashlib.sha256(content).hexdigest())
