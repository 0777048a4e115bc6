"""The embedded stack, run by the command that people use. Two of them at once, for all tests of this file."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import stack, sweep
from orchestrator.embedded.parts import NAMES
from orchestrator.embedded.ports import free_port
from stylefoundry import Client
from stylefoundry.errors import ApiError
from tests.servers import PostgresServer, S3Server, ValkeyServer
from tests.stacks import EmbeddedStack
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedStack, EmbeddedStack]]:
    """Two stacks; the first lies under a path far longer than a socket's may be."""
    first = EmbeddedStack(tmp_path_factory.mktemp("first") / ("long" * 30) / ("longer" * 20))
    second = EmbeddedStack(tmp_path_factory.mktemp("second"))
    try:
        first.launch()
        second.launch()
        first.wait_until_up()
        second.wait_until_up()
        yield first, second
    finally:
        first.clean_up()
        second.clean_up()


@pytest.fixture
def first(both: tuple[EmbeddedStack, EmbeddedStack]) -> EmbeddedStack:
    return both[0]


@pytest.fixture
def second(both: tuple[EmbeddedStack, EmbeddedStack]) -> EmbeddedStack:
    return both[1]


def test_two_stacks_run_side_by_side(first: EmbeddedStack, second: EmbeddedStack):
    for status in (first.status(), second.status()):
        assert all(part["healthy"] for part in status["parts"].values())
        with urllib.request.urlopen(f"{status['url']}/readyz", timeout=10) as answer:
            assert answer.status == 200
    ports = [*first.kept.ports.model_dump().values(), *second.kept.ports.model_dump().values()]
    assert len(set(ports)) == len(ports)


def test_status_tells_scripts_what_the_contract_says(second: EmbeddedStack):
    done = second.run("status", "--json")
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert {*status} == {"url", "api_key", "pid", "s3", "parts"}
    assert {*status["s3"]} == {"url", "bucket", "access_key", "secret_key"}
    assert {*status["parts"]} == {"api", "dispatcher", "redis", "s3", "ray"} == {*NAMES}
    assert all({*part} == {"pid", "healthy"} for part in status["parts"].values())
    assert b"start\0--head" in Path(f"/proc/{status['parts']['ray']['pid']}/cmdline").read_bytes()
    assert status["url"] in second.printed
    assert status["api_key"] in second.printed


def test_no_secret_stands_in_a_log_a_command_line_an_event_or_the_api_document(second: EmbeddedStack):
    kept = second.kept
    with Client(kept.url, kept.api_key) as client:
        key = client.create_key("short-lived")
        rotated = client.admin.rotate_key(key.id)
        signing = client.admin.webhook_secret()
        looked_at = ("/openapi.json", "/v1/keys", "/v1/audit", "/metrics")
        told = [client.http.request("GET", path).text for path in looked_at]
        with pytest.raises(ApiError):
            client.http.request("POST", "/v1/session", json={"key": rotated.key})  # of no page of ours
        with pytest.raises(ApiError):
            client.submit("metastyle", "train", datasets={}, webhook="http://127.0.0.1/")
        jobs = client.http.get("/v1/jobs")["data"]
        told += [client.http.request("GET", f"/v1/jobs/{job['id']}/events").text for job in jobs]
    secrets = {
        "the administrator's key": kept.api_key,
        "a key": str(key.key),
        "a rotated key": str(rotated.key),
        "the webhooks' secret": signing,
        "Redis's password": kept.redis_password,
        "the object store's secret key": kept.s3_secret_key,
        "Ray's token": kept.ray_token,
    }
    ray_logs = second._stack.ray_folder.rglob("*.log")
    logs = [*second._stack.logs.iterdir(), *ray_logs]
    lines = [_command_line(pid).decode(errors="replace") for pid in second.processes()]
    assert len(logs) > len(NAMES)
    assert len(lines) > len(NAMES)
    places = {str(path): path.read_bytes().decode(errors="replace") for path in logs if path.is_file()}
    places |= {f"command line {n}": line for n, line in enumerate(lines)}
    places |= {f"answer {n}": text for n, text in enumerate(told)}
    assert [(what, where) for where, text in places.items() for what, secret in secrets.items() if secret in text] == []


def test_a_second_up_prints_the_same_and_starts_nothing(second: EmbeddedStack):
    before = second.pids()
    for arguments in (["up"], ["up", "--detach"]):
        done = second.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert second.kept.url in done.stdout
        assert second.kept.api_key in done.stdout
    assert second.pids() == before


def test_secrets_are_in_no_command_line_and_in_no_file_that_others_may_read(second: EmbeddedStack):
    kept = second.kept
    secrets = [kept.api_key, kept.redis_password, kept.s3_secret_key, kept.ray_token]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in second.processes()]
    assert not [line for line in lines for secret in secrets if secret.encode() in line]
    files = [path for path in second.folder.rglob("*") if path.is_file() and "up.log" not in path.name]
    open_to_others = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not [path for path in open_to_others for secret in secrets if secret.encode() in path.read_bytes()]
    assert stat.S_IMODE((second.folder / "stack.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["redis", "s3", "api", "dispatcher"])
def test_a_killed_part_is_started_again_and_no_other(second: EmbeddedStack, name: str):
    before = second.pids()
    os.kill(before[name], signal.SIGKILL)
    after = second.wait_until_replaced(before, name)
    assert {part for part in before if after[part] != before[part]} == {name}


def test_with_ray_the_dispatcher_is_started_again_and_nothing_of_the_old_ray_is_left(second: EmbeddedStack):
    before = second.pids()
    of_ray = [pid for pid in second.processes() if os.getsid(pid) == before["ray"]]
    os.kill(before["ray"], signal.SIGKILL)
    after = second.wait_until_replaced(before, "ray", "dispatcher")
    assert {name for name in before if after[name] != before[name]} == {"ray", "dispatcher"}
    assert len(of_ray) > 5
    assert not {*of_ray} & {*second.processes()}


def test_a_killed_supervisor_takes_everything_along_but_not_the_neighbour(first: EmbeddedStack, second: EmbeddedStack):
    neighbour = second.pids()
    first.kill()
    wait_until(lambda: not first.processes(), 10, "its children and what they started have ended")
    assert first.run("status", "--json").returncode == 3
    assert second.pids() == neighbour


def test_the_next_start_ends_what_is_left_and_has_the_same_address_and_data(
    first: EmbeddedStack, second: EmbeddedStack
):
    kept, neighbour = first.kept, second.pids()
    mark = dict([stack.Stack(first.folder, kept).mark.split("=", 1)])
    with subprocess.Popen(["sleep", "600"], env=mark, start_new_session=True) as orphan:
        first.start()
        assert orphan.wait(1) == -signal.SIGKILL
    assert first.kept == kept
    assert all(part["healthy"] for part in first.status()["parts"].values())
    assert second.pids() == neighbour


def test_the_commands_work_with_services_that_are_there_already(
    second: EmbeddedStack,
    postgres_server: PostgresServer,
    postgresql_url: str,
    valkey_server: ValkeyServer,
    s3_server: S3Server,
    tmp_path: Path,
):
    services = {
        "STYLEFOUNDRY_DATABASE_URL": postgresql_url,
        "STYLEFOUNDRY_REDIS_URL": valkey_server.url,
        "STYLEFOUNDRY_S3_URL": s3_server.url,
        "STYLEFOUNDRY_S3_ACCESS_KEY": s3_server.access_key,
        "STYLEFOUNDRY_S3_SECRET_KEY": s3_server.secret_key,
        "STYLEFOUNDRY_RAY_ADDRESS": f"ray://127.0.0.1:{second.kept.ports.ray}",
        "STYLEFOUNDRY_RAY_NAMESPACE": "third",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": second.kept.ray_token,
    }
    third = EmbeddedStack(tmp_path, services)
    try:
        third.start()
        assert {*third.pids()} == {"api", "dispatcher"}
        assert all(part["healthy"] for part in third.status()["parts"].values())
        assert not list(tmp_path.glob("*.db"))
    finally:
        third.clean_up()


def test_ctrl_c_leaves_no_process_and_no_temporary_folder(first: EmbeddedStack):
    ray_folder = stack.Stack(first.folder, first.kept).ray_folder
    assert ray_folder.exists()
    assert first.interrupt() == 0
    assert first.processes() == []
    assert not ray_folder.exists()
    assert first.run("status").returncode == 3


def test_detached_it_outlives_the_command_until_down(first: EmbeddedStack):
    kept = first.kept
    up = first.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert kept.api_key in up.stdout
    supervisor = first.status()["pid"]
    down = first.run("down")
    assert down.returncode == 0, down.stderr
    assert first.processes() == []
    wait_until(lambda: not Path(f"/proc/{supervisor}/cwd").exists(), 5, "the supervisor has left as well")
    assert not stack.Stack(first.folder, kept).ray_folder.exists()
    assert "no stack runs" in first.run("down").stdout


@pytest.mark.parametrize(("name", "advice"), [("api", "--port"), ("s3", "ports.s3"), ("redis", "ports.redis")])
def test_a_kept_port_that_somebody_else_took_is_an_error_that_says_so(tmp_path: Path, name: str, advice: str):
    ours = EmbeddedStack(tmp_path)
    port = getattr(stack.find_or_create(tmp_path, free_port()).kept.ports, name)
    with socket.create_server(("127.0.0.1", port)):
        up = ours.run("up")
    assert up.returncode == 1
    assert f"port {port}, which {name} of {tmp_path} uses, is taken by another program" in up.stderr
    assert advice in up.stderr
    assert ours.processes() == []


def test_a_taken_port_that_was_asked_for_is_an_error(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        up = EmbeddedStack(tmp_path).run("up", "--detach", "--port", str(port))
    assert up.returncode == 1
    assert f"port {port}, which api" in up.stderr
    assert stack.find(tmp_path).kept.ports.api != port


def test_a_sweep_ends_marked_processes_and_leaves_namesakes_alone(tmp_path: Path):
    def start(name: str, mark: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"], executable="/bin/sleep", env={"MARK": mark, "NAME": name})

    with start("raylet", "ours") as ours, start("raylet", "theirs") as theirs:
        try:
            assert sweep.members("MARK=ours", str(tmp_path)) == [ours.pid]
            assert sweep.sweep("MARK=ours", str(tmp_path)) == []
            assert ours.wait(5) == -signal.SIGKILL
            assert theirs.poll() is None
        finally:
            theirs.kill()


def test_a_copied_folder_is_another_stack(tmp_path: Path):
    original = stack.find_or_create(tmp_path / "a", free_port())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stack.json").write_bytes((tmp_path / "a" / "stack.json").read_bytes())
    copy = stack.find(tmp_path / "b")
    assert copy.kept == original.kept
    assert copy.mark != original.mark


def test_a_wrong_setting_is_named(tmp_path: Path):
    up = EmbeddedStack(tmp_path, {"STYLEFOUNDRY_LEASE_S": "soon"}).run("up")
    assert up.returncode == 1
    assert "STYLEFOUNDRY_LEASE_S" in up.stderr


def test_a_command_ends_with_the_process_it_is_tied_to():
    program = (
        "import subprocess, sys; from orchestrator.embedded.tether import tethered;"
        "child = subprocess.Popen(tethered(['sleep', '600'])); print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: b"sleep" in _command_line(child), 10, "the command runs")
        parent.kill()
    wait_until(lambda: not _command_line(child), 10, "it ended with its parent")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()  # empty once it has ended
    except FileNotFoundError:
        return b""
