"""Folders of pictures, as people have them."""

from __future__ import annotations

from pathlib import Path

from stylemodels.images import SUFFIXES


def pictures_under(folder: Path) -> list[Path]:
    """Every picture file under a folder, by its suffix, in the order of names; hidden ones are left out.

    Raises ValueError when there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
    found = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not found:
        raise ValueError(f"{folder}: there is no picture under it ({', '.join(SUFFIXES)})")
    return found
