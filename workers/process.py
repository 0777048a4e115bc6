"""One worker process: what it has opened, and the one piece of work that it does at a time."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import torch

from orchestrator.code import code_digest
from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from stylemodels.distributed import PeerLost
from stylemodels.methods import all_methods
from workers import speed
from workers.attempt import run_attempt
from workers.gang import Meeting, Seat
from workers.inputs import Encoders
from workers.member import LEFT, follow
from workers.patience import Patience
from workers.platform import Platform
from workers.stylize import Stylist
from workers.work import Host

log = structlog.get_logger()

LINGER_S = 60.0  # a fresh worker that nobody ends after its attempt
KEPT_OUTCOMES = 100
UNKNOWN = "unknown"


class Process:
    """Runs attempts, one at a time; a warm one draws pictures in between. Methods may be called from any thread."""

    def __init__(self, name: str, settings: Settings, *, warm: bool, threads: int, address: str = "127.0.0.1") -> None:
        """address: of this node, as the others reach it."""
        self.name, self.warm, self.address = name, warm, address
        self.platform = Platform.open(settings)
        self.encoders = Encoders(self.platform)
        self.attempts_done = 0
        self._hands = threading.Lock()
        self._current: Ticket | None = None
        self._outcomes: dict[Ticket, str] = {}
        self._meeting: Meeting | None = None
        self._changed = threading.Condition()
        torch.set_num_threads(threads)
        self._stylist: Stylist | None = None
        if warm:
            self._warm_up()
            self._stylist = Stylist(name, self.platform, self._hands, threads=threads)

    def facts(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "code": code_digest(),
            "attempts_done": self.attempts_done,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }

    def meeting(self) -> str:
        """Where the workers of a gang find this one, its rank 0."""
        return self._opened_meeting().address

    def run(self, ticket: Ticket, workers: int = 1) -> str:
        """One attempt to its end; its outcome. Raises RuntimeError while another one is at work.

        workers: as rank 0 of a gang of so many.
        """
        seat = Seat(0, workers, self._opened_meeting()) if workers > 1 else None
        host = Host(self.name, socket.gethostname(), os.getpid())
        return self._do(ticket, partial(run_attempt, ticket, self.platform, self.encoders, host, seat))

    def follow(self, ticket: Ticket, *, rank: int, workers: int, meeting: str) -> str:
        """This worker's part of an attempt whose rank 0 is found at `meeting`. Raises RuntimeError as `run` does."""
        return self._do(ticket, partial(self._follow, ticket, rank, workers, meeting))

    def _do(self, ticket: Ticket, work: Callable[[], str]) -> str:
        with self._changed:
            if self._current is not None:
                raise RuntimeError(
                    f"{self.name} is busy with attempt {self._current.attempt} of {self._current.job_id}"
                )
            self._current = ticket
        outcome = "failed"
        try:
            outcome = self._run(work)
        finally:
            self._is_over(ticket, outcome)
        return outcome

    def current(self) -> Ticket | None:
        """What is at work now."""
        with self._changed:
            return self._current

    def wait(self, ticket: Ticket) -> str:
        """Block until this attempt is over here; its outcome, "unknown" when it never was here."""
        with self._changed:
            self._changed.wait_for(lambda: self._current != ticket)
            return self._outcomes.get(ticket, UNKNOWN)

    def close(self) -> None:
        if self._stylist is not None:
            self._stylist.close()
        self.platform.close()

    def _run(self, work: Callable[[], str]) -> str:
        if self._stylist is not None:
            self._stylist.rest()
        with self._hands:  # a picture that is being drawn is finished first
            return work()

    def _follow(self, ticket: Ticket, rank: int, workers: int, meeting: str) -> str:
        try:
            seat = Seat(rank, workers, Meeting.join(meeting, self.address))
        except PeerLost as error:
            log.warning("meeting_missed", job=ticket.job_id, rank=rank, error=str(error))
            return LEFT
        return follow(ticket, self.platform, self.encoders, seat)

    def _opened_meeting(self) -> Meeting:
        with self._changed:
            if self._meeting is None:
                self._meeting = Meeting.open(self.address)
            return self._meeting

    def _is_over(self, ticket: Ticket, outcome: str) -> None:
        with self._changed:
            self._current = self._meeting = None
            self._outcomes[ticket] = outcome
            while len(self._outcomes) > KEPT_OUTCOMES:
                self._outcomes.pop(next(iter(self._outcomes)))
            self.attempts_done += 1
            self._changed.notify_all()
        if self._stylist is not None:
            self._stylist.resume()

    def _warm_up(self) -> None:
        """Do what every first attempt would wait for."""
        all_methods()
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.zeros(1)
        torch.optim.Adam([weight]).step()  # an optimiser's first use imports torch._dynamo: two seconds
        encoder = self.platform.settings.warm_encoder
        try:
            loaded = self.encoders.get(encoder, torch.device("cpu"), Patience(outage_s=1.0))
        except ValueError as error:
            log.warning("encoder_not_warm", encoder=encoder, error=str(error))
            return
        loaded(torch.zeros(1, 3, 64, 64), list(loaded.channels))
        speed.tell(self.platform, torch.device("cpu"))


def exit_later() -> None:
    """End this process in a while: nobody came to do it."""
    timer = threading.Timer(LINGER_S, os._exit, args=(0,))
    timer.daemon = True
    timer.start()
