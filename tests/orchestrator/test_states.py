"""The state machine as a table: complete, closed, and as the contract names it."""

from __future__ import annotations

import pytest

from orchestrator.states import ACTIVE, GRANTED, MOVES, PHASES, TERMINAL, Move, Phase, Status, after, diagram, phase_of


def test_every_status_has_a_phase_and_the_terminal_ones_have_no_way_out():
    assert set(PHASES) == set(Status)
    assert {source for source, _ in MOVES}.isdisjoint(TERMINAL)
    assert {status for status in Status if phase_of(status) is Phase.TERMINAL} == set(TERMINAL)


def test_every_state_can_be_reached_from_those_that_a_submit_gives():
    reached, frontier = {Status.QUEUED, Status.BLOCKED}, [Status.QUEUED, Status.BLOCKED]
    while frontier:
        here = frontier.pop()
        new = {target for (source, _), target in MOVES.items() if source is here} - reached
        reached |= new
        frontier += new
    assert reached == set(Status)


def test_from_every_state_that_is_not_terminal_a_cancel_leads_to_cancelled():
    for status in set(Status) - set(TERMINAL) - {Status.CANCELLING}:
        wished = after(status, Move.CANCEL)
        assert wished is Status.CANCELLED or (
            wished is Status.CANCELLING and after(wished, Move.STOP) is Status.CANCELLED
        )


def test_an_active_job_that_is_lost_never_stays_active():
    for status in ACTIVE:
        assert phase_of(str(after(status, Move.REQUEUE))) is not Phase.ACTIVE


@pytest.mark.parametrize("move", GRANTED)
def test_a_wish_is_either_possible_or_granted_or_refused_but_never_two_of_them(move: Move):
    for status in Status:
        assert not (after(status, move) is not None and status in GRANTED[move])


def test_the_diagram_draws_every_move():
    drawn = diagram()
    for (source, move), target in MOVES.items():
        assert f"{source} --> {target}: {move}" in drawn
