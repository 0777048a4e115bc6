"""`stylefoundry sweeps`: many settings of one job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stylefoundry.commands.fanouts import counts_text
from stylefoundry.commands.jobs import read_config
from stylefoundry.terminal import (
    AsJson,
    DataDir,
    age_text,
    client_of,
    number_text,
    out,
    print_facts,
    print_json,
    print_table,
    status_text,
)
from stylefoundry.types import Sweep, Trial

app = typer.Typer(help="Try many settings of one job.", no_args_is_help=True)

SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="sweep_…")]


@app.command("submit")
def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML or JSON: job, space, strategy, trials, metric, mode, asha.")
    ],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Queue a sweep."""
    body = read_config(file)
    for field in ("job", "space"):
        if field not in body:
            raise ValueError(f"{file} names no {field}")
    with client_of(data_dir) as client:
        _show(client.sweeps.submit(body.pop("job"), body.pop("space"), **body), as_json)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 30,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The newest sweeps."""
    with client_of(data_dir) as client:
        found = client.sweeps.list(limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (s.id, escape(s.name), s.strategy, s.phase, counts_text(s.counts), _best(s.best), age_text(s.created_at))
        for s in found
    ]
    print_table(("SWEEP", "NAME", "STRATEGY", "PHASE", "JOBS", "BEST", ">AGE"), rows)


@app.command("show")
def show(sweep_id: SweepId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One sweep with its trials."""
    with client_of(data_dir) as client:
        _show(client.sweeps.get(sweep_id), as_json)


@app.command("cancel")
def cancel(sweep_id: SweepId, data_dir: DataDir = None) -> None:
    """Cancel every job of it that has not ended."""
    with client_of(data_dir) as client:
        out.print(counts_text(client.sweeps.cancel(sweep_id).counts))


def _show(sweep: Sweep, as_json: bool) -> None:
    if as_json:
        print_json(sweep)
        return
    print_facts(
        [
            ("sweep", sweep.id),
            ("name", escape(sweep.name)),
            ("strategy", sweep.strategy),
            ("compared by", "" if sweep.metric is None else escape(f"{sweep.mode} {sweep.metric}")),
            ("at steps", ", ".join(map(str, sweep.rungs))),
            ("phase", sweep.phase),
            ("jobs", counts_text(sweep.counts)),
            ("best", _best(sweep.best)),
        ]
    )
    rows = [
        (
            str(trial.number),
            escape(_params(trial)),
            status_text(trial.status),
            f"{trial.step}/{trial.total_steps}",
            "" if trial.value is None else number_text(trial.value),
            escape(trial.reason or trial.model or ""),
        )
        for trial in sweep.trials
    ]
    print_table((">TRIAL", "SETTINGS", "STATUS", ">STEP", ">VALUE", ""), rows)


def _best(trial: Trial | None) -> str:
    return "" if trial is None else escape(f"trial {trial.number}: {_params(trial)}")


def _params(trial: Trial) -> str:
    return ", ".join(
        f"{name}={number_text(value) if isinstance(value, float) else json.dumps(value)}"
        for name, value in trial.params.items()
    )
