"""docker-compose.yml and the image, read by Docker Compose and hadolint themselves: no engine is needed for that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import Settings

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
ONE_SHOT = {"migrate"}
RAY = {"ray-head", "ray-worker", "ray-worker-gpu"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project as Docker Compose understands it: checked against its schema, variables and anchors resolved."""
    options = ["--env-file", ".env.example", "--profile", "gpu", "config", "--format", "json"]
    ran = subprocess.run(
        [PROGRAMS / "docker-compose", *options], cwd=ROOT, capture_output=True, text=True, check=False, env={}
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    read: dict[str, Any] = json.loads(ran.stdout)
    return read


@pytest.fixture
def secret_files(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy/make-secrets", folder], check=True)
    return folder


def mounted(service: dict[str, Any]) -> set[str]:
    return {secret["source"] for secret in service.get("secrets", [])}


def test_there_are_two_of_each_replica_and_every_part(project: dict[str, Any]):
    services = project["services"]
    assert set(services) == {"proxy", "api", "dispatcher", "migrate", "postgres", "valkey", "s3", *RAY}
    assert services["api"]["deploy"]["replicas"] == services["dispatcher"]["deploy"]["replicas"] == 2
    assert services["ray-worker-gpu"]["profiles"] == ["gpu"]


def test_what_keeps_running_is_watched_limited_and_started_again(project: dict[str, Any]):
    for name, service in project["services"].items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        if name not in ONE_SHOT:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_nothing_starts_before_the_schema_is_there(project: dict[str, Any]):
    for name in ("api", "dispatcher", *RAY):
        awaited = project["services"][name]["depends_on"]["migrate"]["condition"]
        assert awaited == "service_completed_successfully", name


def test_ports_are_published_on_this_machine_only_and_none_of_rays(project: dict[str, Any]):
    published = {name: service.get("ports", []) for name, service in project["services"].items()}
    assert {name for name, ports in published.items() if ports} == {"proxy", "s3"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_the_api_cannot_reach_ray_and_ray_cannot_reach_the_world(project: dict[str, Any]):
    networks = {name: set(service["networks"]) for name, service in project["services"].items()}
    for node in RAY:
        assert networks[node] == {"cluster"}
        assert not networks[node] & (networks["api"] | networks["proxy"])
    assert networks["dispatcher"] >= {"cluster"}
    assert project["networks"]["cluster"]["internal"]
    assert "ray_token" in mounted(project["services"]["dispatcher"])
    assert "ray_token" not in mounted(project["services"]["api"])


def test_no_secret_stands_in_an_environment_or_a_command_line(project: dict[str, Any]):
    for name, service in project["services"].items():
        told = {**service.get("environment", {}), "command": " ".join(service.get("command") or [])}
        assert not any(re.search("(PASSWORD|TOKEN|SECRET|SECRET_KEY|ADMIN_KEY)$", key) for key in told), name
        assert not any(re.search("pass=|token=|secret=|://[^/]*@", value or "") for value in told.values()), name


def test_every_variable_of_ours_is_a_setting(project: dict[str, Any]):
    known = {f"STYLEFOUNDRY_{name.upper()}" for name in Settings.model_fields}
    for name, service in project["services"].items():
        ours = {key for key in service.get("environment", {}) if key.startswith("STYLEFOUNDRY_")}
        assert ours <= known, name


def test_the_secret_files_are_those_that_are_mounted_and_settings_read_them(
    project: dict[str, Any], secret_files: Path, monkeypatch: pytest.MonkeyPatch
):
    made = {path.name for path in secret_files.iterdir()}
    assert {Path(secret["file"]).name for secret in project["secrets"].values()} <= made
    monkeypatch.setenv("STYLEFOUNDRY_SECRETS_DIR", str(secret_files))
    settings = Settings()
    password = (secret_files / "postgres_password").read_text()
    assert settings.database_url == f"postgresql+psycopg://stylefoundry:{password}@postgres/stylefoundry"
    assert (
        settings.redis_url.get_secret_value()
        in f"redis://:{(secret_files / 'redis_password').read_text()}@valkey:6379/0"
    )
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == (secret_files / "stylefoundry_admin_key").read_text()
    monkeypatch.setenv("STYLEFOUNDRY_S3_SECRET_KEY", "from the environment")
    assert Settings().s3_secret_key.get_secret_value() == "from the environment"


def test_secrets_are_made_once_and_for_nobody_else(secret_files: Path):
    before = {path.name: path.read_text() for path in secret_files.iterdir()}
    subprocess.run([ROOT / "deploy/make-secrets", secret_files], check=True)
    assert {path.name: path.read_text() for path in secret_files.iterdir()} == before
    assert secret_files.stat().st_mode & 0o777 == 0o700
    assert len(set(before.values())) == len(before)


def test_the_dockerfile_is_clean_and_has_both_targets_without_root():
    dockerfile = ROOT / "deploy/Dockerfile"
    linted = subprocess.run([PROGRAMS / "hadolint", dockerfile], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    stage = re.compile(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", re.DOTALL | re.MULTILINE)
    stages = dict(stage.findall(dockerfile.read_text()))
    for target in ("cpu", "cuda"):
        assert "USER 1000" in stages[target]


def test_the_image_takes_the_torch_of_the_project():
    """The pattern in the Dockerfile finds the pin in pyproject.toml."""
    pattern = re.search(r're\.search\("(.*?)"', (ROOT / "deploy/Dockerfile").read_text())
    assert pattern is not None
    pins = set(re.findall(pattern[1], (ROOT / "pyproject.toml").read_text()))
    assert len(pins) == 1


def used_by_the_image() -> Iterator[str]:
    for line in (ROOT / "deploy/Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            yield from line.split()[1:-1]


def test_what_the_dockerfile_copies_reaches_the_builder():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(used_by_the_image()) == sent
    assert all((ROOT / name).exists() for name in sent)
