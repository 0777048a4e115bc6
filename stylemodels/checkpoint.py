"""Tensors, training states and manifests as files: safetensors and JSON, never pickle.

The same tensors always give the same bytes: files can be named by their digest and compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

MANIFEST = "manifest.json"
PARTS = ("weights", "optimizer", "random")  # of a state: its tensors


class Damaged(Exception):
    """A file is missing, cut, or not what the manifest says."""

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        super().__init__(f"{file}: {reason}")


@dataclass(frozen=True)
class State:
    """Everything that training goes on from."""

    step: int  # finished steps over all phases
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: Mapping[str, Tensor]
    facts: Mapping[str, Any]  # JSON


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file whose header is sorted, so that it depends on nothing but its content.

    safetensors writes the header's keys in the random order of a hash map.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
    raw = safetensors.torch.save(plain, dict(metadata) if metadata else None)
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(raw)[8 + length :]])


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors_to_bytes` to a file."""
    path.write_bytes(tensors_to_bytes(tensors, metadata))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU. Raises Damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise Damaged(path.name, str(error)) from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the tensors' canonical file, hexadecimal."""
    return hashlib.sha256(tensors_to_bytes(tensors)).hexdigest()


def to_files(state: State) -> dict[str, bytes]:
    """The files of a checkpoint by name, the manifest last."""
    facts = {"step": state.step, **state.facts}
    files = {
        "weights.safetensors": tensors_to_bytes(state.weights),
        "optimizer.safetensors": tensors_to_bytes(state.optimizer),
        "random.safetensors": tensors_to_bytes(state.random),
        "state.json": json.dumps(facts, indent=1, sort_keys=True).encode(),
    }
    return {**files, MANIFEST: manifest(files)}


def packed(state: State) -> bytes:
    """A state as one message."""
    tensors = {f"{part}/{name}": value for part in PARTS for name, value in getattr(state, part).items()}
    facts = json.dumps({"step": state.step, **state.facts}).encode()
    return len(facts).to_bytes(8, "little") + facts + tensors_to_bytes(tensors)


def unpacked(message: bytes) -> State:
    """What was `packed`."""
    start = 8 + int.from_bytes(message[:8], "little")
    facts = json.loads(message[8:start])
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for path, value in safetensors.torch.load(message[start:]).items():
        part, _, name = path.partition("/")
        parts[part][name] = value
    return State(step=facts.pop("step"), facts=facts, **parts)


def save(state: State, folder: Path) -> None:
    """Write a checkpoint. The folder appears complete or not at all; one that is there is replaced."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, content in to_files(state).items():
        with (part / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def load(folder: Path) -> State:
    """Read a checkpoint back. Raises Damaged when a file is not what the manifest says."""
    verify_manifest(folder)
    facts = json.loads((folder / "state.json").read_text())
    return State(
        step=facts.pop("step"),
        weights=load_tensors(folder / "weights.safetensors"),
        optimizer=load_tensors(folder / "optimizer.safetensors"),
        random=load_tensors(folder / "random.safetensors"),
        facts=facts,
    )


def manifest(files: Mapping[str, bytes]) -> bytes:
    """The manifest of these files: name -> size in bytes and sha256."""
    entries = {name: {"size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in files.items()}
    return json.dumps({"files": entries}, indent=1, sort_keys=True).encode()


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files that lie in a folder."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_bytes(manifest(files))


def verify_manifest(folder: Path) -> None:
    """Compare the files of a folder with its manifest. Raises Damaged with the name of the first that differs."""
    try:
        entries = json.loads((folder / MANIFEST).read_bytes())["files"]
    except FileNotFoundError:
        raise Damaged(MANIFEST, f"not found in {folder.name}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(MANIFEST, f"not a manifest: {error}") from error
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(name, "missing")
        size = path.stat().st_size
        if size != entry["size"]:
            raise Damaged(name, f"{size} bytes, the manifest says {entry['size']}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise Damaged(name, "its sha256 is not the manifest's")
