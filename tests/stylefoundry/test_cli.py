"""The command line as people type it, against a running service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.settings import Settings
from stylefoundry import Client
from tests.images import jpeg
from tests.serving import ADMIN_KEY, working
from tests.stylefoundry.test_client import ADAPT, TRAIN

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(service: str, tmp_path: Path) -> Run:
    """Runs `stylefoundry …` in an empty folder; status: the exit code that it must have."""

    def run(*arguments: str, status: int = 0, key: str = ADMIN_KEY) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "STYLEFOUNDRY_URL": service,
            "STYLEFOUNDRY_API_KEY": key,
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "PYTHONPATH": os.getcwd(),
        }
        command = [sys.executable, "-m", "stylefoundry.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def settings_of(config: dict[str, object]) -> list[str]:
    return [part for key, value in config.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def test_from_a_folder_to_a_picture_with_commands_alone(
    cli: Run, service_settings: Settings, photos: Path, tmp_path: Path
):
    (photos / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "mine.jpg").write_bytes(jpeg(80, 60, seed=4))
    datasets = ("--content", "photos", "--style", "photos@1")
    with working(service_settings, warm=True):
        pushed = cli("datasets", "push", "photos", str(photos))
        assert "photos@1 is ready: 6 pictures" in pushed.stdout
        assert "broken.jpg: " in pushed.stdout
        train = cli("jobs", "submit", "metastyle", "train", *datasets, "--name", "meta", "--wait", *settings_of(TRAIN))
        assert "meta@1 is ready" in train.stdout
        cli(
            "jobs", "submit", "metastyle", "adapt", *datasets, "--base", "meta", "--style-image", "0.jpg",
            "--publish-as", "starry", "--seed", "3", "--tag", "show=spring", "--wait", *settings_of(ADAPT),
        )  # fmt: skip
        cli("models", "stylize", "starry", "mine.jpg", "--out", "out/mine.png", "--set", "strength=0.5")
    assert (tmp_path / "out" / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert cli("models", "fetch", "starry", "-o", "here").stdout.strip() == "here"
    assert (tmp_path / "here" / "model.safetensors").is_file()
    cli("models", "alias", "starry", "best", "1")
    assert json.loads(cli("models", "show", "starry@best", "--json").stdout)["aliases"] == ["latest", "best"]
    assert re.search(r"starry@1 .*metastyle/adapt", cli("models", "list").stdout)
    listed = json.loads(cli("jobs", "list", "--tag", "show=spring", "--json").stdout)
    assert [job["model"] for job in listed] == ["starry@1"]
    job_id = listed[0]["id"]
    assert "succeeded" in cli("jobs", "watch", job_id).stdout
    assert re.search(r"dataset content\s+photos@1", cli("jobs", "show", job_id).stdout)
    assert "style_loss" in cli("jobs", "metrics", job_id).stdout
    assert "attempt 1" in cli("jobs", "logs", job_id).stdout
    assert re.search(r"6\s+1\s+ready", cli("jobs", "checkpoints", job_id).stdout)
    assert "http://" in cli("jobs", "samples", job_id).stdout
    assert "photos@1" in cli("datasets", "list").stdout
    assert "broken.jpg" in cli("datasets", "show", "photos").stdout


def test_a_job_is_steered(cli: Run, client: Client, service_settings: Settings, photos: Path, tmp_path: Path):
    with working(service_settings):
        client.push_dataset("photos", photos)
    (tmp_path / "settings.toml").write_text('encoder = "random"\nsteps = 7\n')
    submit = ("jobs", "submit", "metastyle", "train", "--content", "photos", "--style", "photos")
    job = json.loads(cli(*submit, "--config", "settings.toml", "--set", "steps=9", "--json").stdout)
    assert (job["config"]["steps"], job["config"]["encoder"], job["status"]) == (9, "random", "queued")
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert status in cli("jobs", verb, job["id"]).stdout
    assert "cancelled" in cli("jobs", "watch", job["id"], status=1).stderr
    assert "queued" in cli("jobs", "retry", job["id"], "--set", "steps=3").stdout


def test_what_is_not_wanted_any_more_is_deleted(cli: Run, client: Client, service_settings: Settings, photos: Path):
    with working(service_settings):
        client.push_dataset("photos", photos)
    job = client.submit("metastyle", "train", datasets={"content": "photos", "style": "photos"}, config=TRAIN).id
    assert job in cli("datasets", "delete", "photos@1", status=1).stderr, "it says what still needs it"
    cli("jobs", "cancel", job)
    assert "deleted" in cli("jobs", "delete", job).stdout
    assert "deleted" in cli("datasets", "delete", "photos@1").stdout
    assert re.search(r"together\s+0", cli("usage").stdout)
    assert re.search(rf"DELETE /v1/jobs/.id.\s+{job}\s+204", cli("audit", "--resource", job).stdout)


def test_keys_are_given_rotated_and_taken_back(cli: Run, client: Client):
    made = json.loads(cli("keys", "create", "viewer", "--scope", "read", "--expires", "30", "--json").stdout)
    assert made["scopes"] == ["read"]
    assert made["expires_at"] is not None
    assert "needs the scope submit" in cli("jobs", "cancel", "job_1", key=made["key"], status=1).stderr
    rotated = json.loads(cli("keys", "rotate", made["id"], "--overlap", "0", "--json").stdout)
    cli("jobs", "list", key=made["key"], status=1)
    cli("jobs", "list", key=rotated["key"])
    assert re.search(r"viewer\s+default\s+\S+\s+read", cli("keys", "list").stdout)
    cli("keys", "revoke", made["id"])
    cli("jobs", "list", key=rotated["key"], status=1)


def test_webhooks_have_a_secret_and_a_list(cli: Run, client: Client, service_settings: Settings, photos: Path):
    assert cli("webhooks", "secret").stdout.startswith("whsec_")
    with working(service_settings):
        client.push_dataset("photos", photos)
    job = client.submit(
        "metastyle", "train", datasets={"content": "photos", "style": "photos"}, config=TRAIN,
        webhook="https://hooks.example/",
    )  # fmt: skip
    assert job.webhook is not None
    client.cancel(job.id)
    assert re.search(rf"{job.id}\s+job.cancelled\s+pending", cli("webhooks", "list").stdout)
    delivery = client.admin.deliveries(job=job.id)[0]
    assert "pending" in cli("webhooks", "redeliver", delivery.id).stdout


def test_methods_show_every_setting_with_its_default(cli: Run):
    assert "metastyle" in cli("methods").stdout
    table = cli("methods", "metastyle").stdout
    schema = json.loads(cli("methods", "metastyle", "--json").stdout)["tasks"]["train"]["config"]
    for name, prop in schema["properties"].items():
        assert re.search(rf"^{name}\s+{re.escape(json.dumps(prop['default']))}", table, re.MULTILINE), name


def test_bad_fields_are_told_one_a_line(cli: Run, client: Client, service_settings: Settings, photos: Path):
    with working(service_settings):
        client.push_dataset("photos", photos)
    submit = ("jobs", "submit", "metastyle", "train", "--content", "photos", "--style", "photos")
    told = cli(*submit, "--set", "lr=-1", "--set", "stepz=3", status=1).stderr.splitlines()
    assert told[0].startswith("error: ")
    assert {line.split(":")[0].strip() for line in told[1:]} == {"/config/lr", "/config/stepz"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["jobs", "show", "job_01JD0000000000000000000000"], "error: .*job_01JD"),
        (["models", "fetch", "nothing"], "error: .*nothing"),
        (["datasets", "push", "photos", "nowhere"], "error: nowhere is not a folder"),
        (["jobs", "submit", "metastyle", "train", "--config", "none.json"], "error: --config none.json"),
    ],
)
def test_an_error_is_one_clear_line(cli: Run, arguments: list[str], told: str):
    lines = cli(*arguments, status=1).stderr.strip().splitlines()
    assert len(lines) == 1
    assert re.match(told, lines[0])


def test_an_empty_service_says_what_to_do(cli: Run):
    assert "stylefoundry datasets push" in cli("datasets", "list").stdout
    assert "stylefoundry jobs submit" in cli("jobs", "list").stdout
    assert "stylefoundry jobs submit" in cli("models", "list").stdout


def test_keys_are_made_listed_and_revoked(cli: Run):
    made = json.loads(cli("keys", "create", "laptop", "--tenant", "guests", "--json").stdout)
    assert made["key"].startswith("sf_")
    assert cli("jobs", "list", key=made["key"]).returncode == 0
    listed = cli("keys", "list").stdout
    assert "laptop" in listed
    assert made["key"] not in listed
    cli("keys", "revoke", made["id"])
    assert "revoked" in cli("keys", "list").stdout


def test_the_doctor_names_what_is_wrong(cli: Run):
    assert "FAIL key" in cli("doctor", key="sf_wrong", status=1).stdout


def test_the_doctor_of_a_service_that_is_away(tmp_path: Path):
    environment = os.environ | {"STYLEFOUNDRY_URL": "http://127.0.0.1:9", "STYLEFOUNDRY_API_KEY": "sf_x"}
    command = [sys.executable, "-m", "stylefoundry.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "FAIL service" in done.stdout
