"""A finished model as files: `model.safetensors`, `config.json`, a model card, `README.md`, and `model.onnx`.

The first two depend on method, settings, seed and pictures alone; job, date and data sets stand on the card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stylemodels.checkpoint import Damaged, digest_of, load_tensors, save_tensors
from stylemodels.encoders import Encoder
from stylemodels.method import Base, Method, Task
from stylemodels.onnx_export import OnnxResult, write_onnx
from stylemodels.onnx_export import card_lines as onnx_lines
from stylemodels.settings import as_json

MODEL_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model's config.json says."""

    method: str
    task: str
    config: Mapping[str, Any]  # complete
    controls: Mapping[str, Any]  # what the model can be told, with defaults
    parts: Mapping[str, int]  # part -> parameters
    encoder: Mapping[str, str] | None  # name and sha256 of the encoder that trained it
    facts: Mapping[str, Any]  # the method's own


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the model card tells beyond the model itself; empty from the bare command line."""

    name: str = ""
    job: str = ""
    created_at: str = ""  # UTC, RFC 3339
    seed: int | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)  # role -> name and version
    base_model: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)  # the last step's terms


def write_model(
    folder: Path, task: Task, method: Method, task_name: str, card: Card | None = None, *, onnx: bool = False
) -> Description:
    """Write the model's files into `folder`, which is made if it is not there.

    onnx: also `model.onnx` where the method has one; it takes some seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = describe_model(task, method, task_name)
    tensors = task.model_tensors()
    save_tensors(tensors, folder / MODEL_FILE, metadata_of(description, method))
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(description), indent=1, sort_keys=True) + "\n")
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    result = write_onnx(folder, task) if onnx else None
    (folder / CARD_FILE).write_text(card_text(description, method, card or Card(), digest, result))
    return description


def read_model(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """The files of `write_model`. Raises Damaged when one is missing or broken."""
    try:
        description = Description(**json.loads((folder / CONFIG_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(CONFIG_FILE, f"not the description of a model: {error}") from error
    return description, load_tensors(folder / MODEL_FILE)


def read_base(folder: Path) -> Base:
    """A finished model as something to start from. Raises Damaged."""
    description, tensors = read_model(folder)
    return Base(description.method, description.task, description.config, tensors)


def describe_model(task: Task, method: Method, task_name: str) -> Description:
    """What config.json will say of a task's model."""
    encoder = next((module for module in task.modules() if isinstance(module, Encoder)), None)
    return Description(
        method=method.slug,
        task=task_name,
        config=as_json(task.config),
        controls=as_json(task.Controls()),
        parts=parameter_counts(task),
        encoder=None if encoder is None else {"name": encoder.name, "sha256": digest_of(encoder.state_dict())},
        facts=task.model_facts(),
    )


def parameter_counts(task: Task) -> dict[str, int]:
    """Parameters of each part of the model."""
    return {part: sum(p.numel() for p in task.get_submodule(part).parameters()) for part in task.model_parts}


def metadata_of(description: Description, method: Method) -> dict[str, str]:
    """The header's metadata: ModelSpec's keys where they fit, ours beside them; the same for the same settings."""
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"style-transfer/{method.slug}",
        "modelspec.implementation": "stylefoundry",
        "modelspec.title": method.title,
        "stylefoundry.method": description.method,
        "stylefoundry.task": description.task,
        "stylefoundry.config": json.dumps(description.config, sort_keys=True, separators=(",", ":")),
    }


def card_text(description: Description, method: Method, card: Card, digest: str, onnx: OnnxResult | None = None) -> str:
    """The model card: front matter as on the Hugging Face Hub, then what one wants to know first."""
    front = ["---", "library_name: stylefoundry", "pipeline_tag: image-to-image"]
    front += ["tags:", "- style-transfer", f"- {description.method}"]
    if card.base_model:
        front += [f"base_model: {json.dumps(card.base_model)}"]
    if card.datasets:
        front += ["datasets:", *(f"- {json.dumps(name)}" for name in card.datasets.values())]
    front += ["---", ""]
    body = card_body(description, method, card, digest) + ([] if onnx is None else ["", *onnx_lines(onnx)])
    return "\n".join(front + body) + "\n"


def card_body(description: Description, method: Method, card: Card, digest: str) -> list[str]:
    sizes = ", ".join(f"`{part}` {count:,} parameters" for part, count in description.parts.items())
    origin = {
        "job": card.job,
        "made": card.created_at,
        "seed": "" if card.seed is None else str(card.seed),
        "base model": card.base_model,
        **{f"pictures ({role})": name for role, name in card.datasets.items()},
        "encoder": description.encoder["name"] if description.encoder else "",
        "sha256 of model.safetensors": digest,
    }
    call = "python -m stylemodels stylize --model . --content photo.jpg --out result.png"
    lines = [f"# {card.name or method.title}", ""]
    learnt = sizes or "nothing in it is learnt"
    lines += [f"A model of {method.title} ({method.paper}), task `{description.task}`: {learnt}.", ""]
    lines += ["## Use", "", "```", call, "```", ""]
    if description.controls:
        controls = ", ".join(f"`{name}` (default {value})" for name, value in description.controls.items())
        lines += [f"It can be told with `--set NAME=VALUE`: {controls}.", ""]
    lines += ["## Origin", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in origin.items() if value]
    if card.losses:
        lines += ["", "## Last step", "", "| term | value |", "|---|---|"]
        lines += [f"| {name} | {value:.6g} |" for name, value in card.losses.items()]
    lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in description.config.items()]
    return lines
