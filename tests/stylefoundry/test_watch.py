"""What a terminal shows of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from stylefoundry.events import event_of
from stylefoundry.terminal import span_text
from stylefoundry.types import Job, Progress
from stylefoundry.watch import BARS, View, sparkline

JOB = Job(
    id="job_1", method="metastyle", task="train", name="meta", status="running", phase="active", attempt=1,
    progress=Progress(step=0, total_steps=40, images_per_second=12.5, eta_s=75), created_at=datetime.now(UTC),
)  # fmt: skip


def event(kind: str, **body: object) -> object:
    return event_of({"id": 1, "event": kind, "at": "2026-11-24T09:00:00Z", "attempt": 1, **body})


def test_a_falling_curve_falls():
    line = sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8)
    assert line == BARS[::-1]


def test_a_long_curve_takes_as_many_cells_as_there_are_and_keeps_its_shape():
    line = sparkline([float(n) for n in range(1000)], 40)
    assert len(line) == 40
    assert list(line) == sorted(line, key=BARS.index)


def test_a_flat_curve_is_flat_and_an_empty_one_is_empty():
    assert set(sparkline([3.0, 3.0, 3.0], 40)) == {BARS[0]}
    assert sparkline([], 40) == ""


def test_metrics_move_the_step_and_show_their_last_value():
    view = View(JOB)
    view.take(event("metric", points={"style_loss": [[1, 4.0], [2, 0.125]]}))  # type: ignore[arg-type]
    console = Console(file=StringIO(), width=120)
    console.print(view)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/40" in shown
    assert "12.5 images/s" in shown
    assert "1:15 left" in shown
    assert "style_loss  0.125" in shown


def test_a_status_without_a_step_leaves_the_step_and_a_resumed_attempt_sets_it_back():
    view = View(JOB)
    view.take(event("metric", points={"style_loss": [[9, 4.0]]}))  # type: ignore[arg-type]
    view.take(event("status", status="pausing", reason="pause", resumed_from=None))  # type: ignore[arg-type]
    assert view.step == 9
    view.take(event("status", status="running", reason="began", resumed_from=5))  # type: ignore[arg-type]
    assert view.step == 5


def test_what_a_user_named_cannot_break_the_markup():
    view = View(JOB)
    view.take(event("log", lines=[{"text": "[/red] and [bold"}]))  # type: ignore[arg-type]
    console = Console(file=StringIO())
    console.print(view.notes[0])
    assert "[/red] and [bold" in console.file.getvalue()  # type: ignore[attr-defined]


def test_spans_read_as_clocks():
    assert [span_text(s) for s in (0.4, 75.2, 3600, 4000)] == ["0:00", "1:15", "1:00:00", "1:06:40"]
