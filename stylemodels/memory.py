"""The most memory that a stretch of work took."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
MIB = 1 << 20


class Peak:
    """Filled in when the block is over: MiB beyond what was in use before it; None where the system does not tell."""

    mib: float | None = None


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Of this process, or of the GPU that it works on. Linux alone tells it of a process, others get None."""
    found = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.mib = (torch.cuda.max_memory_allocated(device) - before) / MIB
        return
    if not CLEAR.exists():
        yield found
        return
    _give_back()
    CLEAR.write_text(RESET_PEAK)
    resident = _status_mib("VmRSS")
    yield found
    found.mib = max(0.0, _status_mib("VmHWM") - resident)


def _give_back() -> None:
    """Freed memory that glibc keeps for later goes back to the system: it would hide as much of what comes now."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_mib(field: str) -> float:
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise AssertionError(f"{STATUS} has no {field}")
