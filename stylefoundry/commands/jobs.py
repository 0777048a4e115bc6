"""`stylefoundry jobs`: submit, watch, steer."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from stylefoundry.errors import JobFailed
from stylefoundry.terminal import (
    AsJson,
    DataDir,
    age_text,
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
    value_of,
)
from stylefoundry.types import Job, JobEstimate, Waiting
from stylefoundry.watch import CURVE_CELLS, sparkline, watch

T = TypeVar("T")

app = typer.Typer(help="Train models.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="job_…")]

# What a job is, as `submit` and `estimate` take it.
Method = Annotated[str, typer.Argument(metavar="METHOD", help="See: stylefoundry methods")]
Task = Annotated[str, typer.Argument(metavar="TASK", help="train, adapt, …")]
Content = Annotated[str | None, typer.Option(metavar="NAME[@VERSION]", help="Dataset of contents.")]
StyleSet = Annotated[str | None, typer.Option(metavar="NAME[@VERSION]", help="Dataset of styles.")]
Dataset = Annotated[list[str] | None, typer.Option(metavar="ROLE=NAME[@VERSION]", help="Dataset of another role.")]
StyleImage = Annotated[str | None, typer.Option(metavar="PATH", help="One picture of the style dataset.")]
Base = Annotated[str | None, typer.Option(metavar="NAME[@VERSION]", help="Model to begin with.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings, TOML or JSON; --set goes over.")]
Workers = Annotated[int | None, typer.Option(help="That share out every step's pictures.")]
Cpus = Annotated[int | None, typer.Option(help="Cores of each worker.")]
Gpus = Annotated[int | None, typer.Option(help="GPUs of each worker.")]


@app.command("submit")
def submit(
    method: Method,
    task: Task,
    content: Content = None,
    style: StyleSet = None,
    dataset: Dataset = None,
    style_image: StyleImage = None,
    base: Base = None,
    settings: Set = None,
    config: ConfigFile = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    publish_as: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the model.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find it again.")] = None,
    workers: Workers = None,
    min_workers: Annotated[int | None, typer.Option(help="It may start with so few.")] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    class_: Annotated[str | None, typer.Option("--class", help="Of priority: spare, standard, urgent.")] = None,
    priority: Annotated[int | None, typer.Option(help="Within the class higher goes first.")] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339; by then it ends or expires.")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Attempts after an error of its own.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest running time.")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(help="The newest that stay.")] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Told, signed, how the job ended.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end; exit 1 unless it succeeds.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Queue a training or adaptation job."""
    resources = {"workers": workers, "min_workers": min_workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    with client_of(data_dir) as client:
        job = client.submit(
            method,
            task,
            datasets=datasets_of(content, style, dataset),
            style_image=style_image,
            base_model=base,
            config=config_of(config, settings),
            name=name,
            publish_as=publish_as,
            seed=seed,
            tags=pairs_of(tag or [], "--tag"),
            resources=said(resources) or None,
            priority=priority,
            deadline=deadline,
            **{"class": class_},
            max_retries=max_retries,
            timeout_s=timeout,
            keep_checkpoints=keep_checkpoints,
            webhook=webhook,
        )
        if as_json and not wait:
            print_json(job)
            return
        out.print(f"{job.id} {status_text(job.status)}", soft_wrap=True)
        if wait:
            ended(watch(client, job.id, out))


def datasets_of(content: str | None, style: str | None, others: list[str] | None) -> dict[str, str]:
    """Role -> reference."""
    return said({"content": content, "style": style}) | pairs_of(others or [], "--dataset")


def config_of(file: Path | None, settings: list[str] | None) -> dict[str, Any]:
    """The settings of a file, and over them those of `--set`. Raises ValueError."""
    given = {key: value_of(value) for key, value in pairs_of(settings or [], "--set").items()}
    return (read_config(file) if file is not None else {}) | given


def said(options: Mapping[str, T | None]) -> dict[str, T]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def waiting_text(waiting: Waiting) -> str:
    """Why, where, and when, as far as it can be told."""
    parts = [waiting.reason]
    if waiting.position is not None:
        parts.append(f"position {waiting.position}")
    if waiting.estimated_start is not None:
        parts.append(f"expected to start at {waiting.estimated_start:%Y-%m-%d %H:%M} UTC")
    return ", ".join(parts)


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a TOML or JSON file. Raises ValueError for what is neither."""
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--config {path} is no {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} holds no settings by name")
    return values


def ended(job: Job) -> None:
    """Say how a watched job ended. Raises JobFailed unless it succeeded."""
    if job.status != "succeeded":
        raise JobFailed(job)
    out.print(
        f"[green]{escape(job.model or job.name)}[/] is ready: stylefoundry models fetch {job.model}", soft_wrap=True
    )


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    method: Annotated[str | None, typer.Option(help="Only jobs of this method.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this tag.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Only jobs whose name holds this.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 30,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The newest jobs."""
    label = None if tag is None else ":".join(next(iter(pairs_of([tag], "--tag").items())))
    with client_of(data_dir) as client:
        jobs = client.jobs(status=status, method=method, tag=label, q=q, limit=limit)
    if as_json:
        print_json(jobs)
    elif not jobs:
        out.print("No jobs: stylefoundry jobs submit METHOD TASK --content NAME --style NAME")
    else:
        rows = [
            (
                job.id,
                escape(job.name),
                f"{job.method} {job.task}",
                status_text(job.status),
                f"{job.progress.step}/{job.progress.total_steps}",
                age_text(job.created_at),
            )
            for job in jobs
        ]
        print_table(("JOB", "NAME", "METHOD", "STATUS", ">STEP", ">AGE"), rows)


@app.command("show")
def show(job_id: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One job: where it stands and what it was told."""
    with client_of(data_dir) as client:
        job = client.job(job_id)
        attempts = [] if as_json else client.attempts(job_id)
    if as_json:
        print_json(job)
        return
    progress = job.progress
    print_facts(
        [
            ("job", job.id),
            ("name", escape(job.name)),
            ("method", f"{job.method}/{job.task}"),
            ("status", status_text(job.status)),
            (
                "waits for",
                "" if job.waiting is None else waiting_text(job.waiting),
            ),
            ("step", f"{progress.step} of {progress.total_steps}"),
            ("speed", f"{progress.images_per_second:.1f} images/s" if progress.images_per_second else ""),
            ("left", span_text(progress.eta_s)),
            ("estimated", "" if job.estimate is None else estimate_text(job.estimate)),
            ("at work", span_text(job.running_s) if job.running_s else ""),
            ("depends on", ", ".join(job.depends_on)),
            ("belongs to", job.fanout or job.sweep or ""),
            ("error", "" if job.error is None else escape(f"{job.error.type}: {job.error.message}")),
            ("model", escape(job.model or "")),
            ("base model", escape(job.base_model or "")),
            *((f"dataset {role}", escape(reference)) for role, reference in job.datasets.items()),
            ("style image", escape(job.style_image or "")),
            ("tags", escape(", ".join(f"{key}={value}" for key, value in job.tags.items()))),
            ("seed", str(job.seed)),
            ("retry of", job.parent or ""),
            ("created", f"{age_text(job.created_at)} ago"),
            *((key, escape(json.dumps(value))) for key, value in job.config.items()),
        ]
    )
    for attempt in attempts:
        told = f": {attempt.error.message}" if attempt.error is not None else ""
        resumed = f", from step {attempt.resumed_from}" if attempt.resumed_from else ""
        out.print(f"attempt {attempt.attempt}: {attempt.outcome or 'at work'}{resumed}{escape(told)}", soft_wrap=True)


def estimate_text(estimate: JobEstimate) -> str:
    return f"{span_text(estimate.seconds)} ({span_text(estimate.low)} to {span_text(estimate.high)}), {estimate.basis}"


@app.command("watch")
def watch_(job_id: JobId, data_dir: DataDir = None) -> None:
    """Follow a job to its end; exit 1 unless it succeeds."""
    with client_of(data_dir) as client:
        ended(watch(client, job_id, out))


@app.command("logs")
def logs(job_id: JobId, data_dir: DataDir = None) -> None:
    """What the workers wrote."""
    with client_of(data_dir) as client:
        for line in client.logs(job_id):
            out.print(f"[bright_black]{line.at:%H:%M:%S} a{line.attempt}[/] {escape(line.text)}", soft_wrap=True)


@app.command("cancel")
def cancel(job_id: JobId, data_dir: DataDir = None) -> None:
    """Stop a job for good."""
    with client_of(data_dir) as client:
        _steered(client.cancel(job_id))


@app.command("pause")
def pause(job_id: JobId, data_dir: DataDir = None) -> None:
    """Stop a job after a checkpoint, to go on later."""
    with client_of(data_dir) as client:
        _steered(client.pause(job_id))


@app.command("resume")
def resume(job_id: JobId, data_dir: DataDir = None) -> None:
    """Let a paused job go on."""
    with client_of(data_dir) as client:
        _steered(client.resume(job_id))


@app.command("delete")
def delete(job_id: JobId, data_dir: DataDir = None) -> None:
    """Delete a job that has ended, with its history and checkpoints; its model first."""
    with client_of(data_dir) as client:
        client.delete_job(job_id)
    out.print(f"{escape(job_id)} is deleted")


@app.command("retry")
def retry(
    job_id: JobId,
    start: Annotated[bool, typer.Option("--from-start", help="Not from the newest checkpoint.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")] = None,
    data_dir: DataDir = None,
) -> None:
    """A new job from one that has ended, e.g. with more steps."""
    changes = {key: value_of(value) for key, value in pairs_of(settings or [], "--set").items()}
    with client_of(data_dir) as client:
        _steered(client.retry(job_id, start="start" if start else None, config=changes or None))


def _steered(job: Job) -> None:
    out.print(f"{job.id} {status_text(job.status)}", soft_wrap=True)


@app.command("metrics")
def metrics(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Every loss term: first, least, last, and its curve."""
    with client_of(data_dir) as client:
        series = client.metrics(job_id, name)
    if as_json:
        print_json({"data": [{"name": s.name, "points": s.points} for s in series]})
        return
    rows = []
    for curve in series:
        values = [value for _, value in curve.points]
        figures = (number_text(v) for v in (values[0], min(values), values[-1]))
        rows.append((curve.name, *figures, f"[blue]{sparkline(values, CURVE_CELLS)}[/]"))
    print_table(("METRIC", ">FIRST", ">LEAST", ">LAST", "CURVE"), rows)


@app.command("samples")
def samples(job_id: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The preview pictures: where to fetch them."""
    with client_of(data_dir) as client:
        pictures = client.samples(job_id)
    if as_json:
        print_json(pictures)
        return
    for picture in pictures:
        out.print(
            f"step {picture.step}  {escape(picture.name)}  {picture.width}x{picture.height}  {picture.url}",
            soft_wrap=True,
        )


@app.command("checkpoints")
def checkpoints(job_id: JobId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """What the job could go on from."""
    with client_of(data_dir) as client:
        found = client.checkpoints(job_id)
    if as_json:
        print_json(found)
        return
    rows = [(str(c.step), str(c.attempt), status_text(c.status), size_text(c.bytes)) for c in found]
    print_table((">STEP", ">ATTEMPT", "STATUS", ">SIZE"), rows)
