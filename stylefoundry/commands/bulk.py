"""`stylefoundry jobs estimate` and `jobs batch`: what a job would take, and one action on many jobs."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.commands.jobs import (
    Base,
    ConfigFile,
    Content,
    Cpus,
    Dataset,
    Gpus,
    Method,
    Set,
    StyleImage,
    StyleSet,
    Task,
    Workers,
    config_of,
    datasets_of,
    said,
)
from stylefoundry.terminal import (
    AsJson,
    DataDir,
    client_of,
    number_text,
    out,
    pairs_of,
    print_facts,
    print_json,
    print_table,
    size_text,
    span_text,
    status_text,
)


def estimate(
    method: Method,
    task: Task,
    content: Content = None,
    style: StyleSet = None,
    dataset: Dataset = None,
    style_image: StyleImage = None,
    base: Base = None,
    settings: Set = None,
    config: ConfigFile = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """How long a job would take, and how much memory; nothing is submitted."""
    resources = {"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    with client_of(data_dir) as client:
        found = client.estimate(
            method,
            task,
            datasets=datasets_of(content, style, dataset),
            style_image=style_image,
            base_model=base,
            config=config_of(config, settings),
            resources=said(resources) or None,
        )
    if as_json:
        print_json(found)
        return
    band = "" if found.low is None else f" ({span_text(found.low)} to {span_text(found.high)})"
    print_facts(
        [
            ("steps", f"{found.steps:,}"),
            ("time", f"{span_text(found.seconds)}{band}" if found.seconds is not None else "unknown"),
            ("from", found.basis),
            ("arithmetic", "" if found.flops is None else f"{number_text(found.flops / 1e12)} TFLOP"),
            ("memory", size_text(found.memory_bytes)),
        ]
    )


def batch(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="cancel, pause, resume or retry.")],
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="[JOB]…", help="job_…")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only jobs in this status.")] = None,
    method: Annotated[str | None, typer.Option(help="Only jobs of this method.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this tag.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Only jobs whose name holds this.")] = None,
    fanout: Annotated[str | None, typer.Option(help="Only jobs of this fan-out.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only jobs of this sweep.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Cancel, pause, resume or retry many jobs. Name at least one job or condition."""
    tags = pairs_of(tag or [], "--tag")
    filter = {
        "ids": job_ids, "status": status, "method": method, "tags": tags, "q": q, "fanout": fanout, "sweep": sweep,
    }  # fmt: skip
    with client_of(data_dir) as client:
        items = list(client.batch(action, dry_run=dry_run, **filter))
    if as_json:
        print_json(items)
        return
    rows = [
        (
            item.id,
            escape(item.name or ""),
            item.outcome,
            status_text(item.after or ""),
            escape(item.retried_as or item.detail or ""),
        )
        for item in items
    ]
    print_table(("JOB", "NAME", "OUTCOME", "STATUS", ""), rows)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(item.outcome for item in items).items())
    out.print(f"{'would be: ' if dry_run else ''}{counts or 'no job fits'}")
