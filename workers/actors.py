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
        import ray

        from orchestrator import traces
        from orchestrator.settings import settings
        from orchestrator.telemetry import configure_logging
        from workers.process import Process

        configure_logging(json=settings().log_json)
        traces.configure("worker")
        self._process: Process = Process(
            name,
            settings(),
            warm=warm,
            threads=threads,
            address=str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        )

    def ready(self) -> dict[str, Any]:
        """Pid, node, code digest and load of this process; answered once its imports are done."""
        return self._process.facts()

    def ray_node(self) -> str:
        """Ray's id of the node that this process is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def meeting(self) -> str:
        """Where the others of a gang find this worker, its rank 0."""
        return self._process.meeting()

    def run(self, job_id: str, attempt: int, workers: int = 1) -> str:
        """One attempt to its end, as rank 0 of so many workers: how it ended.

        A fresh worker ends its process a minute later, if nobody else has by then. Raises RuntimeError while another
        attempt is at work.
        """
        from orchestrator.store.queue import Ticket
        from workers.process import exit_later

        outcome = self._process.run(Ticket(job_id, attempt), workers)
        if not self._process.warm:
            exit_later()
        return outcome

    def follow(self, job_id: str, attempt: int, rank: int, workers: int, meeting: str) -> str:
        """The part of another rank, found at `meeting`, in the same attempt."""
        from orchestrator.store.queue import Ticket
        from workers.process import exit_later

        outcome = self._process.follow(Ticket(job_id, attempt), rank=rank, workers=workers, meeting=meeting)
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
