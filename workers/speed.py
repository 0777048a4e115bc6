"""How fast this machine's device is: a matrix product and an addition, measured once and told to SQL for estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import torch

from orchestrator.estimate import Speed
from orchestrator.store import costs
from workers.patience import brief, is_away
from workers.platform import Platform

log = structlog.get_logger()

SIDE = 1024  # of the matrices
FLOATS = 1 << 24  # of an addition: more than caches hold
REPEATS = 5  # the best counts: others share the machine


def measure(device: torch.device) -> Speed:
    """With the threads that torch has at this moment, divided by their number. A quarter of a second on a core."""
    units = 1 if device.type == "cuda" else torch.get_num_threads()
    a, b = torch.rand(SIDE, SIDE, device=device), torch.rand(SIDE, SIDE, device=device)
    product_s = _best_s(lambda: torch.mm(a, b), device)
    x, y = torch.rand(FLOATS, device=device), torch.rand(FLOATS, device=device)
    addition_s = _best_s(lambda: torch.add(x, y, out=x), device)
    return Speed(2 * SIDE**3 / product_s / units, 3 * 4 * FLOATS / addition_s / units)


def tell(platform: Platform, device: torch.device) -> None:
    """Measure and write it down. Without SQL nothing is told: estimates go on with what is known."""
    name = _name(device)
    found = measure(device)
    with _untold_without_sql(name), platform.db.write() as tx:
        costs.keep_speed(tx, name, found)
        log.info("speed_measured", device=name, gflops=found.flops_per_s / 1e9, gbytes=found.bytes_per_s / 1e9)


def tell_if_unknown(platform: Platform, device: torch.device) -> None:
    """`tell`, unless somebody has measured a device of this name."""
    name = _name(device)
    with _untold_without_sql(name):
        with platform.db.read() as tx:
            known = costs.has_speed(tx, name)
        if not known:
            tell(platform, device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else costs.CPU


@contextmanager
def _untold_without_sql(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
        log.warning("speed_not_told", device=name, error=brief(error))


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
