"""`python -m orchestrator.embedded FOLDER [PORT]`: the supervisor alone, as `stylefoundry up --detach` starts it."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from orchestrator.embedded import control
from orchestrator.embedded.stack import StackError


def report(line: str) -> None:
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)


def main(folder: str, port: str | None = None) -> int:
    try:
        control.run(Path(folder), int(port) if port else None, report, lambda _: report("ready"))
    except StackError as error:
        report(str(error))
        return 1
    report("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
