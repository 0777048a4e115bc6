"""Fan-outs, sweeps, batches and estimates through client and command line, with a real worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import Settings
from stylefoundry import Client
from stylefoundry.errors import ApiError
from tests.serving import working
from tests.stylefoundry.test_cli import Run, cli, settings_of
from tests.stylefoundry.test_client import ADAPT, TRAIN
from tests.waiting import wait_until

__all__ = ["cli"]  # the fixture

SETS = {"content": "photos", "style": "photos"}
JOB: dict[str, Any] = {"method": "metastyle", "task": "train", "datasets": SETS, "config": TRAIN}
STYLE = {"method": "metastyle", "task": "adapt", "datasets": SETS, "config": ADAPT, "publish_as": "spring"}


def test_a_fanout_and_a_sweep_go_their_whole_way(
    cli: Run, client: Client, service_settings: Settings, photos: Path, tmp_path: Path
):
    (tmp_path / "spring.json").write_text(
        json.dumps({"name": "spring", "train": JOB | {"publish_as": "meta"}, "adapt": STYLE})
    )
    asha = {"strategy": "asha", "trials": 2, "metric": "total_loss", "asha": {"min_steps": 1, "reduction": 2}}
    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    short = JOB | {"config": TRAIN | {"steps": 2}, "publish_as": "tuned"}
    (tmp_path / "sweep.json").write_text(json.dumps({"job": short, "space": space, **asha}))
    with working(service_settings, warm=True):
        client.push_dataset("photos", photos)
        made = json.loads(
            cli("fanouts", "submit", "spring.json", "--style-image", "0.jpg", "--style-image", "1.jpg", "--json").stdout
        )
        swept = json.loads(cli("sweeps", "submit", "sweep.json", "--json").stdout)
        wait_until(lambda: client.fanouts.get(made["id"]).phase == "terminal", 120, "the fan-out has ended")
        wait_until(lambda: client.sweeps.get(swept["id"]).phase == "terminal", 120, "the sweep has ended")
    fanout = client.fanouts.get(made["id"])
    assert fanout.counts == {"succeeded": 3}
    assert {model.name for model in client.models() if model.name.startswith("spring")} == {"spring-0", "spring-1"}
    adapted = client.jobs(fanout=fanout.id)[0]
    assert (adapted.base_model, adapted.base_job) == ("meta@1", fanout.train)
    sweep = client.sweeps.get(swept["id"])
    assert sweep.best is not None
    assert sorted((trial.rung, trial.status) for trial in sweep.trials) == [(0, "stopped"), (1, "succeeded")]
    second = client.job(sweep.best.job)
    assert client.attempts(second.id)[0].resumed_from == 1, "it went on from the checkpoint of its first rung"
    assert "stopped" in cli("sweeps", "show", sweep.id).stdout
    assert "spring" in cli("fanouts", "list").stdout
    assert sweep.id in cli("sweeps", "list").stdout
    assert "3 succeeded" in cli("fanouts", "show", fanout.id).stdout


def test_many_jobs_are_cancelled_and_estimated_from_the_command_line(
    cli: Run, client: Client, service_settings: Settings, photos: Path
):
    with working(service_settings):
        client.push_dataset("photos", photos)
    jobs = [client.submit("metastyle", "train", datasets=SETS, config=TRAIN, tags={"k": "a"}) for _ in range(2)]
    waiting = client.submit("metastyle", "adapt", datasets=SETS, config=ADAPT, style_image="0.jpg", base_job=jobs[0].id)
    assert (waiting.status, waiting.depends_on) == ("blocked", [jobs[0].id])
    assert "would be: 2 changed" in cli("jobs", "batch", "cancel", "--tag", "k=a", "--dry-run").stdout
    assert "2 changed" in cli("jobs", "batch", "cancel", "--tag", "k=a").stdout
    assert {client.job(job.id).status for job in jobs} == {"cancelled"}
    cli("jobs", "batch", "cancel", status=1)
    found = client.estimate("metastyle", "train", datasets=SETS, config=TRAIN)
    assert found.steps == TRAIN["steps"]
    assert found.flops is not None
    datasets = ("--content", "photos", "--style", "photos")
    told = cli("jobs", "estimate", "metastyle", "train", *datasets, *settings_of(TRAIN | {"steps": 1234}))
    assert "1,234" in told.stdout
    with pytest.raises(ApiError, match="no job"):
        client.submit("metastyle", "train", datasets=SETS, depends_on=["job_01JD0000000000000000000000"])
