"""A whole embedded stack for tests, started by the command that people use. It ends with the test process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.embedded import control, stack, sweep
from orchestrator.embedded.ports import free_port
from orchestrator.embedded.tether import tethered
from tests.waiting import wait_until

PROGRAM = [sys.executable, "-m", "stylefoundry.cli"]
UP_S = 120.0


class EmbeddedStack:
    """`stylefoundry up` in the foreground, over a data directory of its own.

    Use in the main thread. `extra`: environment on top of the test's, e.g. `STYLEFOUNDRY_…` settings.
    """

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._extra = dict(extra or {})
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start it; `wait_until_up` has to follow."""
        stack.find_or_create(self.folder, free_port())  # the usual port may be in use, and two tests may start at once
        with (self.folder / "up.log").open("wb") as log:
            self._process = subprocess.Popen(
                tethered([*PROGRAM, "up", "--data-dir", str(self.folder)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._extra,
            )

    def wait_until_up(self) -> None:
        wait_until(lambda: "Ctrl-C" in self.printed or not self.running, UP_S, f"the stack is up: {self.printed}")
        if not self.running:
            raise AssertionError(f"the stack ended: {self.printed}")

    def start(self) -> None:
        self.launch()
        self.wait_until_up()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def printed(self) -> str:
        return (self.folder / "up.log").read_text()

    @property
    def kept(self) -> stack.Kept:
        """Its address, ports and secrets."""
        return self._stack.kept

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `stylefoundry ARGUMENT… --data-dir …`."""
        command = [*PROGRAM, *arguments, "--data-dir", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | self._extra)

    def status(self) -> dict[str, Any]:
        """What `stylefoundry status --json` prints."""
        return control.status(self.folder)

    def pids(self) -> dict[str, int]:
        """Process ids of the parts that it runs by itself."""
        return {name: part["pid"] for name, part in self.status()["parts"].items() if part["pid"] is not None}

    def processes(self) -> list[int]:
        """All processes that belong to it, the supervisor left out."""
        return sweep.members(self._stack.mark, str(self._stack.ray_folder))

    def wait_until_replaced(self, before: Mapping[str, int], *names: str) -> dict[str, int]:
        """Wait until these parts run in new processes and every part is healthy. Returns the new process ids."""

        def replaced() -> dict[str, int] | None:
            parts = self.status()["parts"]
            now = {name: part["pid"] for name, part in parts.items()}
            new = all(now[name] not in (None, before[name]) for name in names)
            return now if new and all(part["healthy"] for part in parts.values()) else None

        found = wait_until(replaced, UP_S, f"{names} run anew and all is healthy: {self.printed}", every_s=0.1)
        assert found is not None
        return found

    def restart(self, extra: Mapping[str, str]) -> None:
        """Ctrl-C, and up again with these settings besides."""
        self.interrupt()
        self._extra |= extra
        self.start()

    def kill(self) -> None:
        """End the supervisor with SIGKILL; its children follow by themselves."""
        self._end(signal.SIGKILL)

    def interrupt(self) -> int:
        """End it as Ctrl-C does. Returns its exit code."""
        return self._end(signal.SIGINT)

    def clean_up(self) -> None:
        """End it, whatever state it is in, and everything that belongs to it."""
        if self._process is not None:
            self._end(signal.SIGTERM)
        if stack.find(self.folder) is not None:
            self.run("down")
            assert self.processes() == []

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._process = None
        return code

    @property
    def _stack(self) -> stack.Stack:
        found = stack.find(self.folder)
        assert found is not None
        return found
