"""Programs whose peak memory is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# glibc would keep what was freed: tens of megabytes in every thread's arena, and once it has seen a large block freed,
# whole maps on a heap whose holes decide what the peak is.
FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}


def printed(*arguments: str) -> str:
    """By Python with these arguments, in a process that gives back what it frees.

    Raises:
        AssertionError: With what the program said, when it fails.
    """
    command, environment = [sys.executable, *arguments], os.environ | FRUGAL
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def peaks(program: str, *arguments: str) -> dict[str, float]:
    """What a program prints as lines of a name and megabytes."""
    lines = printed("-c", program, *arguments).splitlines()
    return {name: float(megabytes) for name, megabytes in map(str.split, lines)}
