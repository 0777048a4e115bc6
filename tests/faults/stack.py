"""A whole embedded stack of real processes, to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from orchestrator.embedded import stack
from orchestrator.embedded.ports import free_port
from stylefoundry import Client
from tests.faults.work import Work

START_S = 120.0


class Stack(Work):
    """`stylefoundry up` in a folder, driven by its own command as a user would."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, *, cpus: int | None = 2) -> None:
        """cpus: that jobs may take; None: what Ray has."""
        self.folder = folder
        self.environment = {"STYLEFOUNDRY_WARM_ENCODER": "random"} | dict(environment or {})
        if cpus is not None:
            self.environment["STYLEFOUNDRY_CPUS"] = str(cpus)

    def up(self) -> None:
        self._kept()  # two first starts at once may not choose the same port
        self.command("up", "--detach", timeout_s=START_S)

    def down(self) -> None:
        self.command("down", timeout_s=60)

    def command(self, *arguments: str, timeout_s: float = 60, check: bool = True) -> str:
        program = [
            sys.executable,
            "-m",
            "stylefoundry.cli",
            arguments[0],
            "--data-dir",
            str(self.folder),
            *arguments[1:],
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("STYLEFOUNDRY_", "RAY_"))}
        ran = subprocess.run(
            program, env=environment | self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert ran.returncode == 0 or not check, f"{program} gave {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("status", "--json"))
        return answer

    def client(self) -> Client:
        return Client(data_dir=self.folder, patience_s=90)

    def pid_of(self, part: str) -> int:
        """Of a part, or of the supervisor."""
        status = self.status()
        return int(status["pid"] if part == "supervisor" else status["parts"][part]["pid"])

    def victim(self, part: str) -> Callable[[], None]:
        if part == "everything":
            supervisor = self.pid_of("supervisor")

            def everything() -> None:
                os.kill(supervisor, signal.SIGKILL)
                self.up()

            return everything
        pid = self.pid_of(part)
        return lambda: os.kill(pid, signal.SIGKILL)

    @property
    def ray_folder(self) -> Path:
        return self._kept().ray_folder

    def ray_address(self) -> str:
        return (self.ray_folder / "r" / "ray_current_cluster").read_text().strip()

    def ray_environment(self) -> dict[str, str]:
        return psutil.Process(self.pid_of("ray")).environ()

    def _kept(self) -> stack.Stack:
        return stack.find_or_create(self.folder, free_port())


@contextmanager
def running(folder: Path, environment: Mapping[str, str], *, cpus: int | None = 2) -> Iterator[Stack]:
    """A stack with pictures pushed, for as long as the block lasts."""
    started = Stack(folder, environment, cpus=cpus)
    started.up()
    try:
        started.push_pictures()
        yield started
    finally:
        started.down()
