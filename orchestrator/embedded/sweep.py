"""End what is left of a stack whose supervisor is gone.

    python -I -S sweep.py MARK FOLDER < PIPE

waits until PIPE's other end, which only the supervisor holds, is closed, and then sweeps: Ray's agents outlive
everything else by a minute. The supervisor of the next start sweeps as well, because this process may be killed too.

A process belongs to the stack when its environment has the mark, or when it works in FOLDER without a terminal: Ray's
agents write their title over their environment. Never by name: other people's Ray looks the same.
"""

import contextlib
import os
import signal
import sys
import time

SWEEP_S = 10.0


def members(mark: str, folder: str) -> list[int]:
    """Process ids of what belongs to the stack and has not ended, this process left out."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and _belongs(f"/proc/{name}", mark.encode(), folder):
            found.append(int(name))
    return found


def sweep(mark: str, folder: str) -> list[int]:
    """Kill the members until none is left. Returns those that are still there after SWEEP_S seconds."""
    deadline = time.monotonic() + SWEEP_S
    while left := members(mark, folder):
        if time.monotonic() > deadline:
            break
        for pid in left:
            _kill(pid)
        time.sleep(0.02)
    return left


def _belongs(process: str, mark: bytes, folder: str) -> bool:
    try:
        # What has ended and only waits for its parent has no folder any more.
        works_in = os.readlink(f"{process}/cwd").removesuffix(" (deleted)")
        return mark in _read(f"{process}/environ").split(b"\0") or (works_in == folder and not _terminal(process))
    except OSError:  # it ended, or is somebody else's
        return False


def _terminal(process: str) -> int:
    """The number of its controlling terminal; 0: none."""
    after_name = _read(f"{process}/stat").rpartition(b")")[2].split()
    return int(after_name[4])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sys.exit(1 if sweep(sys.argv[1], sys.argv[2]) else 0)
