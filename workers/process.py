"""One worker process: what it has opened, and the one piece of work that it does at a time."""

from __future__ import annotations

import os
import resource
import socket
import threading
from typing import Any

import structlog
import torch

from orchestrator.code import code_digest
from orchestrator.settings import Settings
from orchestrator.store.queue import Ticket
from stylemodels.methods import all_methods
from workers.attempt import run_attempt
from workers.inputs import Encoders
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

    def __init__(self, name: str, settings: Settings, *, warm: bool, threads: int) -> None:
        self.name, self.warm = name, warm
        self.platform = Platform.open(settings)
        self.encoders = Encoders(self.platform)
        self.attempts_done = 0
        self._hands = threading.Lock()
        self._current: Ticket | None = None
        self._outcomes: dict[Ticket, str] = {}
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

    def run(self, ticket: Ticket) -> str:
        """One attempt to its end; its outcome. Raises RuntimeError while another one is at work."""
        with self._changed:
            if self._current is not None:
                raise RuntimeError(
                    f"{self.name} is busy with attempt {self._current.attempt} of {self._current.job_id}"
                )
            self._current = ticket
        outcome = "failed"
        try:
            outcome = self._run(ticket)
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

    def _run(self, ticket: Ticket) -> str:
        if self._stylist is not None:
            self._stylist.rest()
        host = Host(self.name, socket.gethostname(), os.getpid())
        with self._hands:  # a picture that is being drawn is finished first
            return run_attempt(ticket, self.platform, self.encoders, host)

    def _is_over(self, ticket: Ticket, outcome: str) -> None:
        with self._changed:
            self._current = None
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


def exit_later() -> None:
    """End this process in a while: nobody came to do it."""
    timer = threading.Timer(LINGER_S, os._exit, args=(0,))
    timer.daemon = True
    timer.start()
