"""The way to Ray: a token or no start, and a Ray that does not answer is known to be away within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.dispatch import token
from orchestrator.dispatch.cluster import Cluster, RayAway
from orchestrator.settings import Settings
from orchestrator.states import Status
from orchestrator.store import demand
from orchestrator.store.database import Database
from tests.orchestrator.queueing import give_room, queue_job, started


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        ({}, False),
        ({"RAY_AUTH_TOKEN": "t"}, False),
        ({"RAY_AUTH_MODE": "token"}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t"}, True),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/does/not/exist"}, False),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t"}, False),
    ],
)
def test_a_token_is_given_by_mode_and_value(environment: dict[str, str], given: bool, tmp_path: Path):
    assert token.is_given(environment, home=tmp_path) is given


def test_a_token_may_be_a_file(tmp_path: Path):
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    (tmp_path / "token").write_text("\n")
    assert not token.is_given(environment)
    (tmp_path / "token").write_text("secret\n")
    assert token.is_given(environment)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret")
    assert token.is_given({"RAY_AUTH_MODE": "token"}, home=tmp_path)


def test_a_dispatcher_without_a_token_does_not_start(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STYLEFOUNDRY_"))}
    environment |= {"HOME": str(tmp_path), "STYLEFOUNDRY_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    command = [sys.executable, "-m", "orchestrator.dispatch"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "RAY_AUTH_TOKEN_PATH" in ran.stderr
    assert "STYLEFOUNDRY_RAY_WITHOUT_TOKEN" in ran.stderr


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_ray_that_takes_connections_and_never_answers_is_away(silent_port: int):
    cluster = Cluster(Settings(ray_address=f"ray://127.0.0.1:{silent_port}"))
    with pytest.raises(RayAway, match="does not answer"):
        cluster.connect()
    assert not cluster.connected


def test_what_is_at_work_and_what_waits_is_asked_of_the_autoscaler(database_url: str):
    db = Database(database_url)
    give_room(db, cpus=8)
    started(db, "job_a", cpus=2)
    queue_job(db, "job_b", cpus=1, gpus=1, workers=2, min_workers=1)
    queue_job(db, "job_c", status=Status.PAUSED)
    with db.read() as tx:
        assert demand.bundles(tx) == [{"CPU": 2}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}]
    db.dispose()
