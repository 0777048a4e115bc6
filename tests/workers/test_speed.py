"""How fast a device is: measured once, told to whoever estimates."""

from __future__ import annotations

import time

import pytest
import torch

from orchestrator.estimate import Speed
from orchestrator.store import costs
from tests.servers import PostgresServer
from tests.workers.bench import Bench
from workers import speed

CORE = torch.device("cpu")


def told(bench: Bench) -> Speed | None:
    with bench.platform.db.read() as tx:
        return costs.speed(tx, gpu=False)


def test_a_device_that_nobody_knows_is_measured_and_one_that_is_known_is_not(bench: Bench):
    assert told(bench) is None

    speed.tell_if_unknown(bench.platform, CORE)

    first = told(bench)
    assert first is not None
    a = torch.rand(256, 256)
    began = time.perf_counter()
    torch.mm(a, a)
    slow = 2 * 256**3 / (time.perf_counter() - began) / torch.get_num_threads()
    assert first.flops_per_s > slow / 1000, "the unit is operations a second"
    speed.tell_if_unknown(bench.platform, CORE)
    assert told(bench) == first
    speed.tell(bench.platform, CORE)
    assert told(bench) != first, "warm workers measure anew: cores change with what runs beside them"


def test_without_sql_nothing_is_told_and_nothing_fails(bench: Bench, postgres_server: PostgresServer):
    if bench.platform.db.is_sqlite:
        pytest.skip("a file is never away")
    postgres_server.kill()
    try:
        speed.tell_if_unknown(bench.platform, CORE)
        speed.tell(bench.platform, CORE)
    finally:
        postgres_server.start()
    assert told(bench) is None
