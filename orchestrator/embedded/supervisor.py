"""The supervisor: starts the parts of a stack, starts again what dies, and ends all of them with itself.

One thread, the main one: children are tied to the thread that started them (tether.py). Nothing of it is needed after a
crash: a reaper process sees its end and sweeps, and the next start sweeps too (sweep.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.embedded import parts, ports, schema, sweep
from orchestrator.embedded.parts import Part
from orchestrator.embedded.stack import Stack, StackError, as_text, write_private
from orchestrator.embedded.tether import tethered
from orchestrator.settings import Settings

POLL_S = 0.05
START_S = 120.0  # longest time until everything answers
STOP_S = 5.0  # time to end in peace
LOG_BYTES = 10 * 1024 * 1024
STEADY_S = 10.0  # a part that lived this long starts again at once; below, it waits longer each time
LONGEST_PAUSE_S = 30.0
HOPELESS_DEATHS = 5  # of a part during the start, one soon after the other

Report = Callable[[str], None]


class Child:
    """A part and its process."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = self.start_at = 0.0  # monotonic
        self.quick_deaths = 0

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def died(self) -> str | None:
        """How it ended, once; None while it runs or when that was told already."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def plan_restart(self) -> float:
        """When it dies at once again and again, wait longer each time. Returns the pause in seconds."""
        now = time.monotonic()
        self.quick_deaths = 0 if now - self.started_at > STEADY_S else self.quick_deaths + 1
        pause = 0.0 if self.quick_deaths < 2 else min(0.5 * 2 ** (self.quick_deaths - 2), LONGEST_PAUSE_S)
        self.start_at = now + pause
        return pause


class Supervisor:
    """Use in the main thread of a process that holds the stack's lock."""

    def __init__(self, stack: Stack, given: Settings, report: Report) -> None:
        self.stack = stack
        self.settings = stack.settings(given)
        self._given = given
        self._report = report
        self._children = {part.name: Child(part) for part in parts.parts_of(stack, self.settings, given)}
        self._reaper: subprocess.Popen[bytes] | None = None
        self._ready = self._stopping = False

    def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call `ready` once all of it answers, and keep it running until SIGINT or SIGTERM.

        Raises StackError when it does not come up in START_S seconds, or a port is taken. Nothing is left then.
        """
        os.umask(0o077)  # what the parts write is for this user alone
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop_soon)
        try:
            self._clear()
            self.stack.save()
            self._migrate()
            self._start_reaper()
            self._come_up()
            if not self._stopping:
                self._ready = True
                self._tell()
                ready()
            while not self._stopping:
                self._turn()
        finally:
            self._end()
        shutil.rmtree(self.stack.ray_folder, ignore_errors=True)  # after a failure its logs are of use

    def _stop_soon(self, number: int, frame: Any) -> None:
        self._stopping = True

    def _clear(self) -> None:
        """End what an earlier supervisor left, then see that our ports are free."""
        if left := sweep.sweep(self.stack.mark, str(self.stack.ray_folder)):
            raise StackError(f"processes {left} of an earlier start do not end, even killed: end them first")
        kept = self.stack.kept.ports
        for name in ("api", "redis", "s3", "ray"):
            port = getattr(kept, name)
            if name in self._children and not ports.is_free(port):
                raise StackError(self._taken(name, port))

    def _taken(self, name: str, port: int) -> str:
        advice = (
            "or choose another one with --port"
            if name == "api"
            else f"or set another one as ports.{name} in {self.stack.folder / 'stack.json'}"
        )
        return (
            f"port {port}, which {name} of {self.stack.folder} uses, is taken by another program: end that program, "
            f"{advice} (presigned urls that are out then stop working)"
        )

    def _migrate(self) -> None:
        self._report("database: bringing it to the newest schema")
        schema.upgrade(self.settings.database_url)

    def _start_reaper(self) -> None:
        """A process that sweeps when this one is gone: it waits for the end of a pipe that only we hold."""
        command = [sys.executable, "-I", "-S", sweep.__file__, self.stack.mark, str(self.stack.ray_folder)]
        self._reaper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=os.environ | dict([self.stack.mark.split("=", 1)]),
            start_new_session=True,
        )

    def _come_up(self) -> None:
        started = time.monotonic()
        waiting = list(self._children)
        while not self._stopping:
            self._turn()
            for name in [name for name in waiting if self._healthy(name)]:
                waiting.remove(name)
                self._report(f"{name}: ready after {time.monotonic() - started:.1f} s")
            if not waiting and parts.ready(self.settings):
                return
            hopeless = [name for name in waiting if self._children[name].quick_deaths >= HOPELESS_DEATHS]
            if hopeless or time.monotonic() - started > START_S:
                raise StackError(self._not_up(hopeless or waiting or ["api"]))

    def _healthy(self, name: str) -> bool:
        pid = self._children[name].pid
        return pid is not None and parts.healthy(name, self.settings, pid)

    def _not_up(self, late: list[str]) -> str:
        tails = [f"--- the end of {self._log(name)}\n{tail(self._log(name))}" for name in late]
        return "\n".join([f"does not come up: {', '.join(late)}", *tails])

    def _turn(self) -> None:
        """Start what is due, see who died, wait a moment."""
        for child in self._children.values():
            if (how := child.died()) is not None:
                self._lost(child, how)
        if self._reaper is not None and self._reaper.poll() is not None:
            self._reaper.communicate()
            self._start_reaper()
        for child in self._children.values():
            if child.process is None and time.monotonic() >= child.start_at:
                self._start(child)
        time.sleep(POLL_S)

    def _lost(self, child: Child, how: str) -> None:
        part = child.part
        pause = child.plan_restart()
        self._report(f"{part.name}: {how}; starting it again" + (f" in {pause:.1f} s" if pause else ""))
        sweep.sweep(self.stack.part_mark(part.name), str(part.folder or ""))
        for name in part.takes_along:
            other = self._children[name]
            if other.process is not None:
                other.process.kill()
                other.process.wait()
                other.process = None
            other.start_at = child.start_at

    def _start(self, child: Child) -> None:
        part = child.part
        marks = dict(mark.split("=", 1) for mark in (self.stack.mark, self.stack.part_mark(part.name)))
        command = part.prepare()
        log = self._log(part.name)
        rotate(log)
        with log.open("ab") as output:
            child.process = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=part.folder or self.stack.folder,
                env=part.environment | marks,
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
            )
        child.started_at = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        """Write down who runs, for `status`."""
        told = {
            "ready": self._ready,
            "parts": {name: child.pid for name, child in self._children.items()},
            "settings": as_text(self.settings),
        }
        write_private(self.stack.running, json.dumps(told))

    def _log(self, name: str) -> Path:
        return self.stack.logs / f"{name}.log"

    def _end(self) -> None:
        """End every child: first in peace, then by force, and whatever they have started."""
        alive = [child for child in self._children.values() if child.process is not None]
        for child in alive:
            if child.process is not None:
                child.process.send_signal(child.part.stop)
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and any(child.process and child.process.poll() is None for child in alive):
            time.sleep(POLL_S)
        sweep.sweep(self.stack.mark, str(self.stack.ray_folder))
        for child in alive:
            if child.process is not None:
                child.process.wait()
        if self._reaper is not None:
            self._reaper.communicate()
        self.stack.running.unlink(missing_ok=True)


def rotate(log: Path) -> None:
    """Begin a new log file where the old one has grown large; one old one is kept."""
    log.parent.mkdir(exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.move(log, log.with_suffix(".log.1"))


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log file."""
    if not log.exists():
        return "(empty)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return b"\n".join(file.read().splitlines()[-lines:]).decode(errors="replace")
