"""`python -m benchmarks`: every benchmark in turn, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

NAMES = ("submit", "claims", "adapt", "tax", "recovery", "data")


def main() -> int:
    """Returns the number of benchmarks that broke down."""
    broken = 0
    for name in NAMES:
        print(f"\n== {name} ==", flush=True)
        broken += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
    return broken


if __name__ == "__main__":
    sys.exit(main())
