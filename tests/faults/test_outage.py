"""SQL or S3 away for two minutes, with the settings as they come."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.faults.deployed import Stores, deployed
from tests.faults.stack import running
from tests.faults.work import Work, stay_away
from tests.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

AWAY_S = 120.0
LONG = {"steps": 1500, "checkpoint_every": 100, "preview_every": 500}


def test_two_minutes_without_sql_or_s3_cost_no_attempt(
    stores: Stores, external: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
):
    with running(tmp_path_factory.mktemp("outage") / "data", external) as stack:
        _cost_no_attempt(stack, stores)


def test_two_minutes_without_sql_or_s3_cost_no_attempt_of_the_deployed_service(
    stores: Stores, tmp_path_factory: pytest.TempPathFactory
):
    with deployed(tmp_path_factory.mktemp("outage") / "data", stores, "outage") as service:
        _cost_no_attempt(service, stores)


def _cost_no_attempt(service: Work, stores: Stores) -> None:
    untouched = service.model_bytes_digest(service.wait_for_end(service.submit("untouched", config=LONG).id))
    for name, server in (("no-sql", stores.postgres), ("no-s3", stores.s3)):
        _run_without(service, name, server, untouched)


def _run_without(service: Work, name: str, server: Server, untouched: str) -> None:
    submitted = service.submit(name, config=LONG)
    service.wait_for_step(submitted.id, 200)
    server.kill()
    stay_away(AWAY_S)
    server.start()
    job = service.wait_for_end(submitted.id)
    assert job.attempt == 1
    service.assert_every_step_once(job)
    assert service.model_bytes_digest(job) == untouched
