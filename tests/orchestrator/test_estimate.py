"""Estimates: counted work × measured speed, corrected by past runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimate import Past, PhaseCost, Speed, calibrated, cost_key, raw_seconds, work_of

COSTS = [PhaseCost("a", flops=10, bytes=100, peak_bytes=7), PhaseCost("b", flops=1, bytes=2, peak_bytes=9)]


def test_work_is_every_step_of_every_phase_that_is_left():
    phases = [("a", 5), ("b", 3)]
    assert work_of(COSTS, phases) == (8, 53, 506, 9)
    assert work_of(COSTS, phases, done=4) == (4, 13, 106, 9)
    assert work_of(COSTS, phases, done=6) == (2, 2, 4, 9)
    assert work_of(COSTS, phases, done=8) == (0, 0, 0, 0)
    assert work_of(COSTS, [("a", 5), ("new", 1)]) is None


def test_arithmetic_and_memory_take_their_time_and_share_out_over_cores():
    work = work_of(COSTS, [("a", 5)])
    assert work is not None
    assert raw_seconds(work, Speed(10.0, 100.0), 1) == 5 + 5
    assert raw_seconds(work, Speed(10.0, 100.0), 4) == 2.5


def test_without_past_runs_the_band_is_wide_and_the_basis_says_so():
    found = calibrated(10.0, [Past(10.0, 20.0)] * 2)
    assert (found.seconds, found.low, found.high, found.basis) == (10.0, 5.0, 30.0, "counted")


def test_past_runs_of_the_same_size_correct():
    past = [Past(10.0, 10.0 * ratio) for ratio in (1.5, 2.0, 2.5)] + [Past(0.01, 50.0)] * 9
    found = calibrated(20.0, past)
    assert found.seconds == 40.0
    assert 30.0 <= found.low < 40.0 < found.high <= 50.0
    assert "3 past runs" in found.basis


@given(st.floats(1e-3, 1e6), st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(0, 1e6)), max_size=30))
def test_the_estimate_lies_within_its_band(raw_s: float, runs: list[tuple[float, float]]):
    found = calibrated(raw_s, [Past(*run) for run in runs])
    assert found.raw_s == raw_s
    assert found.low <= found.seconds * (1 + 1e-9)
    assert found.seconds <= found.high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"lr": 0.5}, True), ({"steps": 9}, True), ({"bd_steps": [1]}, True), ({"preview_every": 3}, True),
        ({"lr": 0.0}, False), ({"width": 8}, False), ({"encoder": "vgg19"}, False),
    ],
)  # fmt: skip
def test_only_what_changes_a_step_changes_the_key(changes: dict[str, object], same: bool):
    config = {"lr": 0.1, "steps": 5, "bd_steps": [], "preview_every": 1, "width": 4, "encoder": "small"}
    one, other = (cost_key("code", "m/t", c, based=False) for c in (config, config | changes))
    assert (one == other) == same
