"""How an attempt can end before its work is done.

Ended
 ├── Superseded   the ticket no longer counts
 ├── StopAsked    a user wants a pause or the end, or the room is wanted
 ├── TimeIsUp     the job's running time is used up, or its deadline has passed
 └── StorageAway  SQL or S3 was away for too long
"""

from __future__ import annotations

from orchestrator.states import Status


class Ended(Exception):
    """Somebody else decides what becomes of the job, or a store that does not answer."""


class Superseded(Ended):
    """The job went on without this attempt, or a stop was asked for before it began. Leave without a word."""


class StopAsked(Ended):
    """A pause or a cancel was asked for, or the room for another job."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(f"the job is {status}")


class TimeIsUp(Ended):
    """The job has run for `timeout_s` over all its attempts."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the job ran for its whole timeout_s, {timeout_s:g} s")


class DeadlinePassed(TimeIsUp):
    """The job's `deadline` is over."""

    def __init__(self) -> None:
        Exception.__init__(self, "its deadline has passed before it had ended")


class StorageAway(Ended):
    """A store did not answer for `outage_s`."""
