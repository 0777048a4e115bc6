"""/openapi.json is what the server does: every answer is in it, and nothing that it allows is our mistake."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from orchestrator.settings import Settings
from tests.orchestrator.conftest import Api
from tests.orchestrator.hands import drawn, warm_worker
from tests.serving import serving

STATUSES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{verb.upper()} {path}": op for path, verbs in document["paths"].items() for verb, op in verbs.items()}


def test_the_contract_is_all_there(document: dict[str, Any]):
    assert set(operations(document)) == {
        "GET /v1/methods", "GET /v1/methods/{method}",
        "POST /v1/datasets/{name}/uploads", "POST /v1/datasets/{name}/versions",
        "GET /v1/datasets", "GET /v1/datasets/{name}", "GET /v1/datasets/{name}/versions/{version}",
        "POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{id}",
        "POST /v1/jobs/{id}/cancel", "POST /v1/jobs/{id}/pause", "POST /v1/jobs/{id}/resume",
        "POST /v1/jobs/{id}/retry",
        "POST /v1/jobs:batch", "POST /v1/jobs:estimate",
        "POST /v1/fanouts", "GET /v1/fanouts", "GET /v1/fanouts/{id}", "POST /v1/fanouts/{id}/cancel",
        "POST /v1/sweeps", "GET /v1/sweeps", "GET /v1/sweeps/{id}", "POST /v1/sweeps/{id}/cancel",
        "POST /v1/comparisons", "GET /v1/comparisons", "GET /v1/comparisons/{id}", "POST /v1/comparisons/{id}/cancel",
        "DELETE /v1/comparisons/{id}",
        "GET /v1/jobs/{id}/events", "GET /v1/jobs/{id}/metrics", "GET /v1/jobs/{id}/logs",
        "GET /v1/jobs/{id}/checkpoints", "GET /v1/jobs/{id}/samples", "GET /v1/jobs/{id}/attempts",
        "GET /v1/models", "GET /v1/models/{name}", "GET /v1/models/{name}/versions",
        "GET /v1/models/{name}/versions/{version}", "GET /v1/models/{name}/versions/{version}/files/{path}",
        "PUT /v1/models/{name}/aliases/{alias}", "POST /v1/models/{name}/versions/{version}/stylize",
        "DELETE /v1/jobs/{id}", "DELETE /v1/datasets/{name}/versions/{version}",
        "DELETE /v1/models/{name}/versions/{version}", "DELETE /v1/models/{name}/aliases/{alias}",
        "POST /v1/keys", "GET /v1/keys", "GET /v1/keys/current", "POST /v1/keys/{id}/rotate",
        "POST /v1/keys/{id}/revoke",
        "POST /v1/tenants", "GET /v1/tenants", "GET /v1/tenants/{name}", "PATCH /v1/tenants/{name}",
        "GET /v1/quota", "GET /v1/usage", "GET /v1/audit",
        "POST /v1/webhooks/secret", "GET /v1/webhooks/deliveries", "POST /v1/webhooks/deliveries/{id}/redeliver",
        "POST /v1/session", "POST /v1/session/end",
        "GET /livez", "GET /readyz", "GET /metrics",
    }  # fmt: skip


def test_every_json_answer_has_a_model_and_every_error_is_a_problem_document(document: dict[str, Any]):
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if int(status) >= 400:
                assert set(content) == {"application/problem+json"}, (name, status)
            elif "application/json" in content:
                assert content["application/json"]["schema"] != {}, (name, status)


def test_every_post_that_makes_something_takes_an_idempotency_key(document: dict[str, Any]):
    takes = {
        name
        for name, operation in operations(document).items()
        if any(parameter["name"] == "idempotency-key" for parameter in operation.get("parameters", []))
    }
    assert takes == {
        "POST /v1/jobs", "POST /v1/jobs/{id}/retry", "POST /v1/datasets/{name}/versions", "POST /v1/keys",
        "POST /v1/tenants", "POST /v1/fanouts", "POST /v1/sweeps", "POST /v1/comparisons",
        "POST /v1/keys/{id}/rotate", "POST /v1/webhooks/secret",
    }  # fmt: skip


def asked(api: Api, url: str, each: int) -> int:
    """Send `each` requests that the document allows, and as many that it does not, to every operation.

    As many again go to things that are there. Raises what schemathesis finds. Returns how many were sent.
    """
    there = {"name": "starry", "version": "1", "alias": "best", "id": api.job()["id"], "path": "model.safetensors"}
    there["method"] = "metastyle"
    headers = {"Authorization": f"Bearer {api.key}"}
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    checks = CHECKS.get_by_names(STATUSES)  # known once a document is loaded
    sent = 0

    def ask(case: schemathesis.Case) -> None:
        nonlocal sent
        sent += 1
        case.validate_response(case.call(base_url=url, headers=headers), checks=checks)

    repeated = hypothesis.settings(
        max_examples=each, database=None, deadline=None, suppress_health_check=[*HealthCheck]
    )
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation in (result.ok() for result in document.get_all_operations()):
        named = {name: there[name] for name in re.findall("{(.*?)}", operation.path)}
        for mode, names in itertools.product(GenerationMode, (None, named) if named else (None,)):
            cases = operation.as_strategy(mode, path_parameters=names)
            with contextlib.suppress(Unsatisfiable):  # nothing is left that could be wrong
                repeated(hypothesis.seed(0)(hypothesis.given(case=cases)(ask)))()
    return sent


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_the_document_says_is_what_is_answered(api: Api, settings: Settings, described: Path):
    api.add_model("starry")
    api.room(cpus=4)
    known = settings.model_copy(update={"cache_dir": described})
    with serving(known) as url, warm_worker(settings, drawn):
        assert asked(api, url, each=3) > 200


@pytest.mark.slow
def test_what_the_document_says_is_what_is_answered_at_length(api: Api, settings: Settings, described: Path):
    api.add_model("starry")
    api.room(cpus=4)
    known = settings.model_copy(update={"cache_dir": described})
    with serving(known) as url, warm_worker(settings, drawn):
        assert asked(api, url, each=100) > 5000
