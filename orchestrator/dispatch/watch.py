"""Leases, watched by this process's own clock.

A lease that moves is a living process. One that stands still is taken for dead only after it has been seen to stand
still for two leases of monotonic time without a failed query in between: an outage of the database, a laptop's sleep or
a clock that jumps says nothing about a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.store.queue import Ticket


@dataclass
class LeaseWatch:
    """How long each lease has stood still, as far as this process has seen without interruption."""

    lease_s: float
    _seen: dict[Ticket, tuple[float | None, float]] = field(default_factory=dict)  # lease, seen first at

    def expired(self, leases: Mapping[Ticket, float | None], now_s: float) -> list[Ticket]:
        """Tickets whose lease may be taken back.

        leases: `lease_until` of every active job, whatever clock wrote it: only whether it changes counts.
        now_s: this process's monotonic clock.
        """
        self._seen = {
            ticket: (lease, self._seen[ticket][1])
            if ticket in self._seen and self._seen[ticket][0] == lease
            else (lease, now_s)
            for ticket, lease in leases.items()
        }
        return [ticket for ticket, (_, since) in self._seen.items() if now_s - since >= 2 * self.lease_s]

    def interrupted(self) -> None:
        """A query failed: what was seen so far proves nothing any more."""
        self._seen.clear()
