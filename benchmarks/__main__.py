"""`python -m benchmarks [NAME …]`: benchmarks in turn, each in a process of its own; all of them without a name."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("submit", "claims", "scheduler", "adapt", "fanout", "tax", "gang", "recovery", "data", "step", "speed")


def main() -> int:
    """Returns the number of benchmarks that broke down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    broken = 0
    for name in names:
        print(f"\n== {name} ==", flush=True)
        broken += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
    return broken


if __name__ == "__main__":
    sys.exit(main())
