"""`stylefoundry methods`: what can be trained, and every setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from stylefoundry.terminal import AsJson, DataDir, client_of, out, print_json, print_table
from stylefoundry.types import Method, TaskInfo

BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, with its settings.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """What can be trained; with a NAME its tasks and settings."""
    with client_of(data_dir) as client:
        found = client.methods() if name is None else [client.method(name)]
    if as_json:
        print_json(found if name is None else found[0])
    elif name is None:
        rows = [(m.method, escape(m.title), ", ".join(m.tasks), escape(m.paper)) for m in found]
        print_table(("METHOD", "TITLE", "TASKS", "PAPER"), rows)
    else:
        print_method(found[0])


def print_method(method: Method) -> None:
    out.print(f"[bold]{escape(method.title)}[/]  {escape(method.paper)}")
    for name, task in method.tasks.items():
        out.print(f"\n[bold]{method.method} {name}[/]  {escape(needs_text(task))}")
        print_settings(task.config.get("properties", {}))
        if controls := task.controls.get("properties"):
            out.print(f"\n[bold]stylize[/] with a model of {method.method} {name}")
            print_settings(controls)


def needs_text(task: TaskInfo) -> str:
    """What a job of the task has to name."""
    needs = [f"--{role} ({kind})" for role, kind in task.datasets.items()]
    if task.base_model:
        needs.append(f"--base (a model of {task.base_model})")
    if task.style_image:
        needs.append("--style and --style-image (one picture of it)")
    return "needs " + ", ".join(needs) if needs else ""


def print_settings(properties: Mapping[str, Any]) -> None:
    rows = [
        (name, escape(default_text(prop)), escape(allowed_text(prop)), escape(prop.get("description", "")))
        for name, prop in properties.items()
    ]
    print_table(("SETTING", ">DEFAULT", "ALLOWED", "WHAT"), rows)


def default_text(prop: Mapping[str, Any]) -> str:
    """The published default, and ours for the small encoders where there is one."""
    published = json.dumps(prop.get("default"))
    return f"{published} (small: {json.dumps(prop['x-small'])})" if "x-small" in prop else published


def allowed_text(prop: Mapping[str, Any]) -> str:
    """Type and bounds in one line."""
    if "enum" in prop:
        return " | ".join("null" if choice is None else str(choice) for choice in prop["enum"])
    types = [prop["type"]] if isinstance(prop.get("type"), str) else list(prop.get("type", ()))
    bounded = prop.get("items", prop)
    bounds = [f"{sign} {bounded[key]}" for key, sign in BOUNDS.items() if key in bounded]
    return " ".join([" or ".join(types), ", ".join(bounds)]).strip()
