"""Ray's side: the class that the dispatcher makes detached actors of.

Importing this costs nothing: whatever needs torch or SQL is imported inside the methods, on the worker's side only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.process import Process


class Worker:
    """One process that runs attempts, one at a time. All other calls may come while `run` is at work."""

    def __init__(self, name: str, warm: bool, threads: int) -> None:
        """warm: load an encoder and draw pictures between attempts. threads: of torch outside of attempts."""
        from orchestrator.settings import settings
        from orchestrator.telemetry import configure_logging
        from workers.process import Process

        configure_logging(json=settings().log_json)
        self._process: Process = Process(name, settings(), warm=warm, threads=threads)

    def ready(self) -> dict[str, Any]:
        """Pid, node, code digest and load of this process; answered once its imports are done."""
        return self._process.facts()

    def run(self, job_id: str, attempt: int) -> str:
        """One attempt to its end: how it ended. Raises RuntimeError while another one is at work.

        A fresh worker ends its process a minute later, if nobody else has by then.
        """
        from orchestrator.store.queue import Ticket
        from workers.process import exit_later

        outcome = self._process.run(Ticket(job_id, attempt))
        if not self._process.warm:
            exit_later()
        return outcome

    def current(self) -> tuple[str, int] | None:
        """The attempt at work now."""
        ticket = self._process.current()
        return None if ticket is None else (ticket.job_id, ticket.attempt)

    def wait(self, job_id: str, attempt: int) -> str:
        """Block until that attempt is over here; "unknown" when it never was here."""
        from orchestrator.store.queue import Ticket

        return self._process.wait(Ticket(job_id, attempt))
