"""How fast a key may ask: told with Retry-After, per key and kind, shared by replicas, and nothing without Redis."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from orchestrator.api.rates import Kind, Rates
from orchestrator.bus import Bus
from orchestrator.problems import TooMany
from orchestrator.settings import Settings
from tests.orchestrator.conftest import Api, problem, small_job
from tests.servers import ValkeyServer

SLOW = {"reads_per_minute": 24, "writes_per_minute": 18, "stylizes_per_minute": 6}  # bursts of 4, 3 and 1

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=SLOW)


def rates(settings: Settings) -> Rates:
    return Rates(Bus(settings.redis_url.get_secret_value()), settings)


def passed(some: Rates, key: str, kind: Kind, times: int) -> int:
    """How many of so many requests at once pass."""
    count = 0
    for _ in range(times):
        try:
            if not some.take(key, kind):
                some.ask(key, kind)
            count += 1
        except TooMany:
            continue
    return count


def test_beyond_the_burst_a_request_is_told_when_to_come_again(api: Api):
    answers = [api.post("/v1/jobs/job_x/cancel") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
    told = problem(answers[-1], 429)
    assert "18 writes a minute" in told["detail"]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 4


def test_kinds_and_keys_have_each_their_own(api: Api, settings: Settings):
    for _ in range(4):
        api.post("/v1/jobs/job_x/cancel")
    problem(api.post("/v1/jobs", small_job()), 429)
    assert api.get("/v1/jobs").status_code == 200
    some = rates(settings)
    assert passed(some, "key_a", Kind.WRITES, 9) == 3
    assert passed(some, "key_b", Kind.WRITES, 9) == 3
    assert passed(some, "key_a", Kind.STYLIZES, 9) == 1


def test_replicas_share_what_a_key_may_send(settings: Settings):
    one, other = rates(settings), rates(settings)
    assert passed(one, "key_a", Kind.READS, 2) + passed(other, "key_a", Kind.READS, 9) == 4
    assert passed(one, "key_a", Kind.READS, 1) == 0


def test_a_bucket_fills_again_with_time_and_no_further_than_its_size(settings: Settings):
    bus = Bus(settings.redis_url.get_secret_value())
    assert bus.take("b", per_s=1000.0, most=4, wanted=100)[0] == 4
    assert bus.take("c", per_s=0.001, most=4, wanted=3)[0] == 3
    assert bus.take("c", per_s=0.001, most=4, wanted=3)[0] == 1
    taken, wait_s = bus.take("c", per_s=0.001, most=4, wanted=3)
    assert taken == 0
    assert 900 < wait_s <= 1000


def test_a_fast_key_asks_redis_seldom(settings: Settings):
    fast = settings.model_copy(update={"writes_per_minute": 60_000})
    bus = Bus(fast.redis_url.get_secret_value())
    some = Rates(bus, fast)
    asked = 0
    for _ in range(2000):
        if not some.take("key_a", Kind.WRITES):
            some.ask("key_a", Kind.WRITES)
            asked += 1
    assert asked == 4, "ten seconds' worth are 10,000, a process takes 500 at a time"


def test_no_limit_means_no_limit(settings: Settings):
    assert passed(rates(settings.model_copy(update={"reads_per_minute": 0})), "key_a", Kind.READS, 1000) == 1000


def test_while_redis_is_away_or_frozen_requests_pass(anonymous: TestClient, api: Api, valkey_server: ValkeyServer):
    valkey_server.kill()
    assert [api.get("/v1/jobs").status_code for _ in range(6)] == [200] * 6
    valkey_server.start()
    valkey_server.freeze()
    assert [api.get("/v1/jobs").status_code for _ in range(6)] == [200] * 6
