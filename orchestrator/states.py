"""The life of a job: its states, the moves between them, and who makes them.

Everything that changes a job's status goes through `MOVES`; what is not in it cannot happen. Clients go by `phase`.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    BLOCKED = "blocked"
    QUEUED = "queued"
    PAUSED = "paused"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PREEMPTING = "preempting"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Phase(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    TERMINAL = "terminal"


class Move(StrEnum):
    """What may happen to a job; the value is the `reason` of its `status` event."""

    UNBLOCK = "unblocked"  # a dispatcher: all jobs that it depends on have succeeded
    DROP = "dependency"  # a dispatcher: one of them never will
    CLAIM = "claimed"  # a dispatcher: room taken, a new attempt begins
    BEGIN = "began"  # the worker: it has read the job and restored what there was
    FINISH = "finished"  # the worker: model published
    FAIL = "error"  # the worker or a dispatcher: no retry is left, or none would help
    REQUEUE = "retry"  # the worker or a dispatcher: lost or failed, the next attempt goes on
    PREEMPT = "preempted"  # a dispatcher: a job of a higher class needs the room
    PAUSE = "pause"  # a user
    RESUME = "resume"  # a user
    CANCEL = "cancel"  # a user
    STOP = "stopped"  # the worker: checkpoint complete, or nobody is left who could make one
    EXPIRE = "timeout"  # the worker or a dispatcher: running time is used up, or the deadline has passed
    LAPSE = "deadline"  # a dispatcher: the deadline has passed, and no worker is at work


S = Status

PHASES: dict[Status, Phase] = {
    S.BLOCKED: Phase.PENDING,
    S.QUEUED: Phase.PENDING,
    S.PAUSED: Phase.PENDING,
    S.STARTING: Phase.ACTIVE,
    S.RUNNING: Phase.ACTIVE,
    S.PAUSING: Phase.ACTIVE,
    S.PREEMPTING: Phase.ACTIVE,
    S.CANCELLING: Phase.ACTIVE,
    S.SUCCEEDED: Phase.TERMINAL,
    S.FAILED: Phase.TERMINAL,
    S.CANCELLED: Phase.TERMINAL,
    S.EXPIRED: Phase.TERMINAL,
}

MOVES: dict[tuple[Status, Move], Status] = {
    (S.BLOCKED, Move.UNBLOCK): S.QUEUED,
    (S.BLOCKED, Move.DROP): S.FAILED,
    (S.BLOCKED, Move.CANCEL): S.CANCELLED,
    (S.BLOCKED, Move.LAPSE): S.EXPIRED,
    (S.QUEUED, Move.CLAIM): S.STARTING,
    (S.QUEUED, Move.PAUSE): S.PAUSED,
    (S.QUEUED, Move.CANCEL): S.CANCELLED,
    (S.QUEUED, Move.LAPSE): S.EXPIRED,
    (S.PAUSED, Move.RESUME): S.QUEUED,
    (S.PAUSED, Move.CANCEL): S.CANCELLED,
    (S.PAUSED, Move.LAPSE): S.EXPIRED,
    (S.STARTING, Move.BEGIN): S.RUNNING,
    (S.STARTING, Move.REQUEUE): S.QUEUED,
    (S.STARTING, Move.FAIL): S.FAILED,
    (S.STARTING, Move.EXPIRE): S.EXPIRED,
    (S.STARTING, Move.PAUSE): S.PAUSING,
    (S.STARTING, Move.CANCEL): S.CANCELLING,
    (S.STARTING, Move.PREEMPT): S.PREEMPTING,
    (S.RUNNING, Move.FINISH): S.SUCCEEDED,
    (S.RUNNING, Move.REQUEUE): S.QUEUED,
    (S.RUNNING, Move.FAIL): S.FAILED,
    (S.RUNNING, Move.EXPIRE): S.EXPIRED,
    (S.RUNNING, Move.PAUSE): S.PAUSING,
    (S.RUNNING, Move.CANCEL): S.CANCELLING,
    (S.RUNNING, Move.PREEMPT): S.PREEMPTING,
    (S.PAUSING, Move.STOP): S.PAUSED,
    (S.PAUSING, Move.REQUEUE): S.PAUSED,  # lost or failed while pausing: the pause still holds
    (S.PAUSING, Move.FINISH): S.SUCCEEDED,
    (S.PAUSING, Move.FAIL): S.FAILED,
    (S.PAUSING, Move.EXPIRE): S.EXPIRED,
    (S.PAUSING, Move.CANCEL): S.CANCELLING,
    (S.PREEMPTING, Move.STOP): S.QUEUED,
    (S.PREEMPTING, Move.REQUEUE): S.QUEUED,
    (S.PREEMPTING, Move.FINISH): S.SUCCEEDED,
    (S.PREEMPTING, Move.FAIL): S.FAILED,
    (S.PREEMPTING, Move.EXPIRE): S.EXPIRED,
    (S.PREEMPTING, Move.PAUSE): S.PAUSING,
    (S.PREEMPTING, Move.CANCEL): S.CANCELLING,
    (S.CANCELLING, Move.STOP): S.CANCELLED,
    (S.CANCELLING, Move.REQUEUE): S.CANCELLED,
    (S.CANCELLING, Move.FAIL): S.CANCELLED,
    (S.CANCELLING, Move.EXPIRE): S.CANCELLED,
}

ACTIVE = tuple(status for status, phase in PHASES.items() if phase is Phase.ACTIVE)
TERMINAL = tuple(status for status, phase in PHASES.items() if phase is Phase.TERMINAL)

# A user's wish that is so already, or on its way there, is answered with the job and changes nothing.
GRANTED: dict[Move, tuple[Status, ...]] = {
    Move.PAUSE: (S.PAUSED, S.PAUSING),
    Move.RESUME: (S.QUEUED, S.STARTING, S.RUNNING, S.PREEMPTING),
    Move.CANCEL: (S.CANCELLED, S.CANCELLING),
}


def phase_of(status: str) -> Phase:
    """The phase of a status. Raises ValueError for what is not a status."""
    return PHASES[Status(status)]


def after(status: str, move: Move) -> Status | None:
    """Where `move` leads from `status`; None where it cannot happen."""
    return MOVES.get((Status(status), move))


def sources(move: Move) -> tuple[Status, ...]:
    """The states from which `move` can happen."""
    return tuple(status for (status, candidate) in MOVES if candidate is move)


class ErrorType(StrEnum):
    """Machine-readable causes in a job's `error`."""

    INVALID = "invalid"  # the job asks for what cannot be done: never retried
    DIVERGED = "diverged"  # a loss was not finite: never retried, the same would happen again
    OUT_OF_MEMORY = "out_of_memory"
    LOST = "lost"  # the worker's process, node or Ray is gone
    STALLED = "stalled"
    TIMEOUT = "timeout"
    DEPENDENCY = "dependency"  # a job that it depends on did not succeed
    STORAGE = "storage"  # SQL or S3 away for longer than `outage_s`
    INTERNAL = "internal"


NEVER_RETRIED = (ErrorType.INVALID, ErrorType.DIVERGED)


def diagram() -> str:
    """The state machine as a Mermaid diagram; `docs/architecture.md` holds it and a test compares."""
    edges = [f"    {source} --> {target}: {move}" for (source, move), target in MOVES.items()]
    ends = [f"    {status} --> [*]" for status in TERMINAL]
    return "\n".join(["stateDiagram-v2", "    [*] --> queued", "    [*] --> blocked", *edges, *ends])
