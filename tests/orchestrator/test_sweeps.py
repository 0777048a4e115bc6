"""Sweeps: what is tried, and who goes on. The rule is held against its properties, not against itself."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweeps import Promotion, Range, Trial, grid, is_stopped, promotions, rung_steps, samples


def test_a_grid_is_every_combination_once():
    assert grid({"lr": [1, 2], "width": ["a", "b", "c"]}) == [
        {"lr": lr, "width": width} for lr in (1, 2) for width in ("a", "b", "c")
    ]


@given(
    st.floats(1e-6, 1e3), st.floats(1.0, 1e3), st.booleans(), st.booleans(), st.integers(0, 2**32), st.integers(1, 30)
)
def test_samples_stay_in_their_ranges_and_follow_the_seed(
    low: float, factor: float, log: bool, integer: bool, seed: int, count: int
):
    high = math.ceil(low * factor) + 1
    space = {"lr": Range(low, high, log, integer), "kind": ["x", "y"]}
    drawn = samples(space, count, seed)
    assert len(drawn) == count
    assert all(low <= trial["lr"] <= high and trial["kind"] in "xy" for trial in drawn)
    assert not integer or all(isinstance(trial["lr"], int) for trial in drawn)
    assert samples(space, count + 5, seed)[:count] == drawn


def test_log_samples_have_as_many_below_the_geometric_middle_as_above():
    drawn = [trial["lr"] for trial in samples({"lr": Range(1e-5, 1e-1, log=True)}, 2000, 0)]
    assert 900 < sum(value < 1e-3 for value in drawn) < 1100


def test_rungs_grow_by_the_reduction_up_to_all_steps():
    assert rung_steps(10, 3, 100) == [10, 30, 90, 100]
    assert rung_steps(10, 3, 90) == [10, 30, 90]
    assert rung_steps(200, 3, 100) == [100]


RaceCase = tuple[list[list[float | None]], tuple[int, int, str], list[int]]


class Race:
    """A sweep played to its end: whoever is at work finishes in an order that Hypothesis picks."""

    def __init__(self, values: list[list[float | None]], rungs: int, reduction: int, mode: str) -> None:
        self.rungs, self.reduction, self.mode, self.table = rungs, reduction, mode, values
        self.trials = [Trial(n, 0, False, True, ()) for n in range(1, len(values) + 1)]
        self.promoted: list[Promotion] = []

    def finish(self, pick: int) -> None:
        """One of the trials at work ends its rung, and everybody who may goes on."""
        working = [n for n, trial in enumerate(self.trials) if trial.active]
        n = working[pick % len(working)]
        trial = self.trials[n]
        value = self.table[n][trial.rung]
        self.trials[n] = trial._replace(finished=True, active=False, values=(*trial.values, value))
        for promotion in self.decide():
            self.promoted.append(promotion)
            old = self.trials[promotion.number - 1]
            self.trials[promotion.number - 1] = old._replace(rung=promotion.to, finished=False, active=True)

    def decide(self) -> list[Promotion]:
        return promotions(self.trials, rungs=self.rungs, reduction=self.reduction, mode=self.mode)

    def finished(self, rung: int) -> list[float]:
        sign = 1 if self.mode == "min" else -1
        valued = [t.values[rung] for t in self.trials if len(t.values) > rung]
        return sorted(sign * value for value in valued if value is not None and math.isfinite(value))


maybe = st.one_of(st.floats(-100, 100), st.just(float("nan")), st.none())
races = st.tuples(st.integers(1, 4), st.integers(2, 4), st.sampled_from(["min", "max"])).flatmap(
    lambda shape: st.tuples(
        st.lists(st.lists(maybe, min_size=shape[0], max_size=shape[0]), min_size=1, max_size=20),
        st.just(shape),
        st.lists(st.integers(0, 1000), min_size=200, max_size=200),
    )
)


@given(races)
def test_a_race_ends_and_promotes_only_who_deserves_it(race: RaceCase):
    values, (rungs, reduction, mode), picks = race
    play = Race(values, rungs, reduction, mode)
    sign = 1 if mode == "min" else -1
    for pick in picks:
        if not any(trial.active for trial in play.trials):
            break
        before = len(play.promoted)
        play.finish(pick)
        for number, to in play.promoted[before:]:
            own = play.table[number - 1][to - 1]
            assert own is not None
            assert math.isfinite(own)
            standing = play.finished(to - 1)
            share = max(1, len(standing) // reduction)
            assert sign * own <= standing[share - 1], "it is among the best of those that had finished then"
        assert play.decide() == [], "a decision leaves nothing to decide"
    assert not any(trial.active for trial in play.trials)
    assert len(set(play.promoted)) == len(play.promoted), "nobody is promoted twice"
    for trial in play.trials:
        stopped = is_stopped(trial, play.trials, rungs=rungs, reduction=reduction, mode=mode)
        assert stopped == (trial.rung < rungs - 1), "at the end everybody is at the top or has been stopped"
    if any(v is not None and math.isfinite(v) for v in (row[0] for row in values)) and rungs > 1:
        assert any(trial.rung > 0 for trial in play.trials), "the best of all goes on in any case"


@given(races)
def test_the_best_third_is_promoted_when_all_finish_at_once(race: RaceCase):
    values, (rungs, reduction, mode), _ = race
    trials = [Trial(n, 0, True, False, (row[0],)) for n, row in enumerate(values, start=1)]
    found = promotions(trials, rungs=rungs, reduction=reduction, mode=mode)
    valued = [v for row in values if (v := row[0]) is not None and math.isfinite(v)]
    expected = max(len(valued) // reduction, min(1, len(valued))) if rungs > 1 else 0
    assert len(found) == expected
    sign = 1 if mode == "min" else -1
    chosen = sorted(sign * value for p in found if (value := values[p.number - 1][0]) is not None)
    assert chosen == sorted(sign * value for value in valued)[:expected]


def test_a_trial_is_not_stopped_while_others_may_still_make_room_for_it():
    first = Trial(1, 0, True, False, (2.0,))
    best = Trial(2, 0, True, False, (1.0,))
    late = Trial(3, 0, False, True, ())
    assert promotions([first, best, late], rungs=2, reduction=3, mode="min") == []
    assert not is_stopped(first, [first, best, late], rungs=2, reduction=3, mode="min")
    done = [first, best, late._replace(finished=True, active=False, values=(3.0,))]
    assert promotions(done, rungs=2, reduction=3, mode="min") == [Promotion(2, 1)]
    assert is_stopped(first, done, rungs=2, reduction=3, mode="min")
