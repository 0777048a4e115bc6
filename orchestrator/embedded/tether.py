"""Run a command that ends when its parent does, even when the parent is killed.

    python -I -S tether.py PARENT_PID COMMAND ARGUMENT…

A program of its own and not a `preexec_fn`: nothing of ours may run between fork and exec in a process with threads.
The kernel ties the signal to the *thread* that started the command, so only main threads start children this way.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` tied to this process. Call from the main thread and start it at once."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
