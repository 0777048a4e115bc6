"""Metrics and log lines that wait."""

from __future__ import annotations

from workers import backlog
from workers.backlog import Backlog


def test_points_come_out_in_order_and_once() -> None:
    waiting = Backlog()
    waiting.add_terms(1, {"a": 1.0, "b": 2.0})
    waiting.add_terms(2, {"a": 3.0, "c": 4.0})

    chunk = waiting.take()

    assert chunk.points == {"a": [(1, 1.0), (2, 3.0)], "b": [(1, 2.0)], "c": [(2, 4.0)]}
    assert chunk.through is None, "nothing is left behind"
    assert not waiting


def test_a_step_is_never_cut_in_two() -> None:
    waiting = Backlog()
    steps = backlog.BATCH_POINTS // 3 + 10
    for step in range(1, steps + 1):
        waiting.add_terms(step, {"a": 0.0, "b": 0.0, "c": float(step)})

    first, second = waiting.take(), waiting.take()

    assert first.through is not None
    assert [step for step, _ in first.points["a"]] == list(range(1, first.through + 1))
    assert [step for step, _ in second.points["c"]] == list(range(first.through + 1, steps + 1))
    assert second.through is None


def test_an_outage_full_of_log_lines_keeps_the_newest_and_says_how_many_are_gone() -> None:
    waiting = Backlog()
    for number in range(backlog.KEPT_LINES + 7):
        waiting.add_line({"at": 0.0, "level": "info", "text": str(number)})

    lines = waiting.take().lines

    assert lines[0]["text"].startswith("7 log lines were dropped")
    assert [line["text"] for line in lines[1:3]] == ["7", "8"]
    assert len(lines) == backlog.BATCH_LINES + 1
    assert not waiting.take().lines[0]["text"].startswith("7 log")


def test_a_long_line_is_cut() -> None:
    waiting = Backlog()
    waiting.add_line({"at": 0.0, "level": "info", "text": "x" * (backlog.LINE_CHARACTERS + 5)})
    [line] = waiting.take().lines
    assert line["text"].endswith("… (5 more characters)")
