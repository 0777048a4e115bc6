"""What a figure was measured on: which core belongs to whom, how busy the machine was, what a process took."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

SERVICE_CORE, OTHER_CORE = 0, 1  # the second one for clients, databases and everything that is not measured


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process and what it starts run on one core as long as the block lasts, if there are several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core} & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy() -> str:
    """The load average, to print beside a figure: above the number of cores, others took part of them."""
    one, five, _ = os.getloadavg()
    return f"load average {one:.1f}, {five:.1f} on {os.cpu_count()} cores"


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that these processes have taken so far."""
    taken = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(times.user + times.system for times in taken))


def waited_s(pid: int) -> float:
    """Seconds that the busiest thread of a process was ready to run and had no core, because others had it."""
    found = []
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            ran_ns, waited_ns, _ = map(int, schedstat.read_text().split())
            found.append((ran_ns, waited_ns))
    return max(found)[1] / 1e9


def rss_mib(pid: int) -> float:
    """Memory of a process that lies in RAM, MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
