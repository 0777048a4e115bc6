"""Whatever goes wrong is a problem document, and nothing that a caller sends is our mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from orchestrator.api.app import create_app
from orchestrator.problems import FieldProblem, Unavailable, invalid_fields
from orchestrator.settings import Settings
from tests.orchestrator.conftest import ADMIN_KEY, Api, pointers, problem, small_job
from tests.servers import PostgresServer, S3Server, ValkeyServer

JSON = {"Content-Type": "application/json"}


def send(api: Api, body: bytes | str, path: str = "/v1/jobs") -> Any:
    return api.request("POST", path, content=body, headers=JSON)


def test_a_document_says_what_and_where():
    found = invalid_fields([FieldProblem("/config/lr", "too high"), FieldProblem("/seed", "\ud800")])
    assert json.loads(found.body()) == {
        "type": "urn:stylefoundry:problem:invalid",
        "title": "Invalid input",
        "status": 422,
        "detail": "/config/lr: too high (and 1 more)",
        "errors": [{"pointer": "/config/lr", "detail": "too high"}, {"pointer": "/seed", "detail": "\ud800"}],
    }
    assert Unavailable("away", retry_after_s=7).headers == {"Retry-After": "7"}


def test_what_is_not_there_and_what_cannot_be_done_are_problems(api: Api):
    assert "/nowhere" in problem(api.get("/nowhere"), 404)["detail"]
    problem(api.get("/v1/nowhere"), 404)
    problem(api.get("/v1/jobs/"), 404)
    answer = api.request("DELETE", "/v1/jobs")
    problem(answer, 405)
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]
    problem(api.request("PUT", "/v1/models/x"), 405)
    problem(api.post("/v1/jobs:nothing", small_job()), 404)
    problem(api.request("DELETE", "/v1/methods/metastyle"), 405)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"method": }',
        b"\xff\xfe",
        b'{"method": "\xff"}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 10_000 + b"}",
    ],
    ids=["nothing", "half", "hole", "bom", "latin", "deep", "digits"],
)
def test_what_is_not_json_is_refused(api: Api, body: bytes):
    answer = send(api, body)
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code)


def test_strange_values_are_the_callers_mistake(api: Api):
    good = small_job()

    def told(**changes: Any) -> list[str]:
        return pointers(send(api, json.dumps(good | changes)))

    assert told(seed=10**30) == ["/seed"]
    assert told(timeout_s=float("nan")) == ["/timeout_s"]
    assert told(timeout_s=float("inf")) == ["/timeout_s"]
    assert told(config={"lr": float("nan"), "encoder": "random"}) == ["/config/lr"]
    assert told(config={"lr": 1e400, "encoder": "random"}) == ["/config/lr"]
    assert told(config={"precision": "\ud800", "encoder": "random"}) == ["/config/precision"]
    assert told(config={"encoder": ["random"]}) == ["/config/encoder"]
    assert told(config={"encoder": {"a": 1}}) == ["/config/encoder"]
    assert told(name="a\0b") == ["/name"]
    assert told(name="a\n") == ["/name"]
    assert told(method="\ud800") == ["/method"]
    assert told(style_image="\ud800") == ["/style_image"]
    assert told(tags={"a": "\ud800"}) == ["/tags/a"]
    assert told(**{"\ud800": 1}) == [""]
    assert told(**{"a/b~c": 1}) == ["/a~1b~0c"]
    assert told(config=[1]) == ["/config"]
    assert pointers(send(api, "[]")) == [""]
    assert pointers(send(api, "null")) == [""]
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert told(config={"lr": deep, "encoder": "random"}) == ["/config/lr"]


@pytest.mark.parametrize("path", ["%00", "a%00b", "%FF", "%F0%9F%92%A9", "'; DROP TABLE jobs; --", "a" * 5000])
def test_strange_paths_and_parameters_are_the_callers_mistake(api: Api, path: str):
    for url in (
        f"/v1/jobs/{path}",
        f"/v1/datasets/{path}",
        f"/v1/models/{path}",
        f"/v1/models/m/versions/{path}",
        f"/v1/models/m/versions/1/files/{path}",
        f"/v1/methods/{path}",
        f"/v1/jobs?q={path}",
        f"/v1/jobs?tag={path}:{path}",
        f"/v1/jobs?method={path}",
        f"/v1/jobs?cursor={path}",
        f"/v1/models?cursor={path}",
    ):
        answer = api.get(url)
        assert answer.status_code in (200, 404, 422), (url, answer.text)
        if answer.status_code != 200:
            problem(answer, answer.status_code)


def test_a_body_over_the_limit_is_refused_unread(api: Api):
    problem(send(api, b'{"name": "' + b"a" * 1024 * 1024 + b'"}'), 413)
    mib = json.dumps({"kind": "images", "files": [{"path": "a" * 600_000, "sha256": "b" * 600_000}]})
    problem(send(api, mib, "/v1/datasets/d/versions"), 422)  # a list of files may be larger
    problem(send(api, b"[" + b" " * 33 * 1024 * 1024, "/v1/datasets/d/versions"), 413)
    huge = {"content": b"a" * 33 * 1024 * 1024}
    problem(api.request("POST", "/v1/models/m/versions/1/stylize", files=huge), 413)


def test_every_answer_has_an_id_for_the_log(api: Api):
    seen = {api.get(path).headers["x-request-id"] for path in ("/livez", "/v1/jobs", "/nowhere", "/v1/keys")}
    assert len(seen) == 4


# --- something is away ------------------------------------------------------------------------------------------------


def test_without_sql_the_caller_is_told_to_come_back(
    postgresql_url: str, postgres_server: PostgresServer, redis_url: str, s3: Any, described: Path
):
    app = create_app(
        Settings(
            database_url=postgresql_url,
            redis_url=SecretStr(redis_url),
            s3_url=s3.url,
            s3_bucket=s3.name,
            s3_access_key=s3.access_key,
            s3_secret_key=SecretStr(s3.secret_key),
            admin_key=SecretStr(ADMIN_KEY),
            cache_dir=described,
        )
    )
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/v1/jobs", headers=headers).status_code == 200
        postgres_server.kill()
        for path in ("/v1/jobs", "/readyz"):
            answer = client.get(path, headers=headers)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert client.get("/livez").status_code == 200
        assert client.get("/metrics").status_code == 503
        postgres_server.start()
        assert client.get("/v1/jobs", headers=headers).status_code == 200


def test_without_redis_and_s3_jobs_are_taken(api: Api, valkey_server: ValkeyServer, s3_server: S3Server):
    api.room(cpus=4)
    ready = api.get("/readyz").json()
    assert ready == {"status": "ready", "parts": {"sql": True, "redis": True, "s3": True, "ray": True}}
    valkey_server.kill()
    s3_server.kill()
    ready = api.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "degraded", "parts": {"sql": True, "redis": False, "s3": False, "ray": True}}
    assert api.job()["status"] == "queued"


def test_prometheus_reads_what_goes_on(api: Api):
    api.room(cpus=4)
    api.post(f"/v1/jobs/{api.job()['id']}/cancel")
    api.job()
    text = api.client.get("/metrics").text
    for line in (
        'stylefoundry_jobs{status="queued"} 1.0',
        'stylefoundry_jobs{status="cancelled"} 1.0',
        'stylefoundry_queue_length{class="standard"} 1.0',
        'stylefoundry_room{resource="cpus"} 4.0',
        'stylefoundry_room_taken{resource="cpus"} 0.0',
        'stylefoundry_requests_total{method="POST",route="/v1/jobs",status="201"} 2.0',
        'stylefoundry_requests_total{method="POST",route="/v1/jobs/{id}/cancel",status="200"} 1.0',
    ):
        assert line in text.splitlines(), text
