"""SQL or S3 away for two minutes, with the settings as they come."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.faults.stack import Stack, running, stay_away
from tests.servers import PostgresServer, S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

AWAY_S = 120.0
LONG = {"steps": 1500, "checkpoint_every": 100, "preview_every": 500}


def test_two_minutes_without_sql_or_s3_cost_no_attempt(
    external: Mapping[str, str],
    postgres_server: PostgresServer,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
):
    with running(tmp_path_factory.mktemp("outage") / "data", external) as stack:
        untouched = stack.model_bytes_digest(stack.wait_for_end(stack.submit("untouched", config=LONG).id))
        for name, server in (("no-sql", postgres_server), ("no-s3", s3_server)):
            _run_without(stack, name, server, untouched)


def _run_without(stack: Stack, name: str, server: PostgresServer | S3Server, untouched: str) -> None:
    submitted = stack.submit(name, config=LONG)
    stack.wait_for_step(submitted.id, 200)
    server.kill()
    stay_away(AWAY_S)
    server.start()
    job = stack.wait_for_end(submitted.id)
    assert job.attempt == 1
    stack.assert_every_step_once(job)
    assert stack.model_bytes_digest(job) == untouched
