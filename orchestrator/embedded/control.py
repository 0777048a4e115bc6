"""Starting, stopping and looking at a stack from outside: what `stylefoundry up | down | status` call."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.embedded import parts, stack, sweep
from orchestrator.embedded.stack import Stack, StackError, read_settings
from orchestrator.embedded.supervisor import START_S, STOP_S, Report, Supervisor, rotate, tail
from orchestrator.settings import Settings

PREFERRED_PORT = 8790
POLL_S = 0.05
LOCK_S = 0.5  # `status` holds the lock for an instant


def run(folder: Path, port: int | None, report: Report, ready: Callable[[Stack], None]) -> None:
    """Be the supervisor of `folder` until SIGINT or SIGTERM; `ready` is called once everything answers.

    port: of the API; None: the kept one. Raises StackError; when it does, nothing is left running.
    """
    given = read_settings()
    if port is None and "port" in given.model_fields_set:
        port = given.port
    found = stack.find_or_create(folder, port or PREFERRED_PORT)
    if port is not None:
        found.use_port(port)
    if given.admin_key is not None:
        found.kept.api_key = given.admin_key.get_secret_value()
    with _locked(found):
        Supervisor(found, given, report).run(lambda: ready(found))


def detach(folder: Path, port: int | None, report: Report) -> Stack:
    """Start a supervisor that outlives this process, and return once everything answers.

    Raises StackError with the end of its log when it does not come up.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / "logs" / "supervisor.log"
    rotate(log)
    command = [sys.executable, "-P", "-m", "orchestrator.embedded", str(folder), *([str(port)] if port else [])]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    report(f"starting; the supervisor writes {log}")
    try:
        return wait_until_ready(folder, lambda: process.poll() is None)
    except StackError as error:
        raise StackError(f"{error}\n--- the end of {log}\n{tail(log, 40)}") from error
    except KeyboardInterrupt:
        process.terminate()
        raise


def wait_until_ready(folder: Path, alive: Callable[[], bool]) -> Stack:
    """Wait for a supervisor that another process runs. Raises StackError when it ends or takes too long."""
    deadline = time.monotonic() + START_S + STOP_S
    while time.monotonic() < deadline:
        found = stack.find(folder)
        if found is not None and (told := _told(found)) is not None and told["ready"]:
            return found
        if not alive():
            raise StackError(f"the stack in {folder} did not start")
        time.sleep(POLL_S)
    raise StackError(f"the stack in {folder} did not come up within {START_S + STOP_S:.0f} s")


def running(folder: Path) -> Stack | None:
    """The stack of `folder`, if a supervisor runs it."""
    found = stack.find(folder)
    return found if found is not None and supervisor_pid(found) is not None else None


def down(folder: Path) -> bool:
    """Stop a stack and return when nothing of it is left; False when it did not run. Raises StackError."""
    found = stack.find(folder)
    if found is None:
        return False
    pid = supervisor_pid(found)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 3 * STOP_S
        while supervisor_pid(found) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + STOP_S
            time.sleep(POLL_S)
    if left := sweep.sweep(found.mark, str(found.ray_folder)):
        raise StackError(f"processes {left} do not end, even killed")
    shutil.rmtree(found.ray_folder, ignore_errors=True)
    return pid is not None


def status(folder: Path) -> dict[str, Any]:
    """What `stylefoundry status --json` prints. Raises StackError where no stack was ever started."""
    found = stack.find(folder)
    if found is None:
        raise StackError(f"no stack in {folder}: start one with `stylefoundry up --data-dir {folder}`")
    pid = supervisor_pid(found)
    told = _told(found) if pid is not None else None
    settings = Settings(**told["settings"]) if told is not None else found.settings(read_settings())
    pids: dict[str, int | None] = {name: told["parts"].get(name) if told is not None else None for name in parts.NAMES}
    return {
        "url": found.kept.url,
        "api_key": found.kept.api_key,
        "pid": pid,
        "s3": {
            "url": settings.s3_url,
            "bucket": settings.s3_bucket,
            "access_key": settings.s3_access_key,
            "secret_key": settings.s3_secret_key.get_secret_value(),
        },
        "parts": {
            name: {"pid": part, "healthy": told is not None and parts.healthy(name, settings, part)}
            for name, part in pids.items()
        },
    }


def supervisor_pid(found: Stack) -> int | None:
    """The process that runs a stack; None when nobody holds its lock."""
    try:
        with found.lock.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0) or None
            return None
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _locked(found: Stack) -> Iterator[None]:
    """Hold the stack's lock, with our process id in it. Raises StackError when somebody else does."""
    with open(os.open(found.lock, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError(f"another supervisor runs the stack in {found.folder}") from None
                time.sleep(POLL_S)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _told(found: Stack) -> dict[str, Any] | None:
    """What the supervisor wrote about its parts; None before it started any."""
    if supervisor_pid(found) is None:
        return None
    try:
        told: dict[str, Any] = json.loads(found.running.read_bytes())
    except FileNotFoundError:
        return None
    return told
