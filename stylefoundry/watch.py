"""A job in the terminal while it runs: a bar, the speed, every loss term with its curve in one line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stylefoundry.client import Client
from stylefoundry.terminal import number_text, span_text, status_text
from stylefoundry.types import Event, Job

BARS = "▁▂▃▄▅▆▇█"
CURVE_CELLS = 40
LOOK_EVERY_S = 2.0  # how old the speed and the ETA may be: events do not carry them
LINE_EVERY_S = 10.0  # between two lines where the output is no terminal


class View:
    """What a watcher knows of one job, fed with its events."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.status = job.status
        self.step = job.progress.step
        self.curves: dict[str, list[float]] = {}
        self.notes: list[str] = []  # what happened since somebody looked, a line each

    def take(self, event: Event) -> None:
        body = event.body
        if event.event == "metric":
            for name, points in body["points"].items():
                self.curves.setdefault(name, []).extend(value for _, value in points)
                self.step = max(self.step, points[-1][0])
        elif event.event == "status":
            self.status = body["status"]
            if body.get("resumed_from") is not None:
                self.step = body["resumed_from"]
            self.notes.append(f"{status_text(self.status)} {escape(_reason(body))}".rstrip())
        elif event.event == "checkpoint":
            self.notes.append(f"checkpoint of step {body['step']}")
        elif event.event == "log":
            self.notes.extend(f"[bright_black]{escape(str(line['text']))}[/]" for line in body["lines"])

    def headline(self) -> str:
        progress = self.job.progress
        total = progress.total_steps
        parts = [status_text(self.status), f"{self.step}/{total or '?'}"]
        if self.status == "running" and progress.images_per_second:
            parts.append(f"{progress.images_per_second:.1f} images/s")
        if self.status == "running" and progress.eta_s is not None:
            parts.append(f"{span_text(progress.eta_s)} left")
        return "  ".join(parts)

    def line(self) -> str:
        """All of it in one line, for logs."""
        terms = [f"{name} {number_text(values[-1])}" for name, values in self.curves.items()]
        return "  ".join([f"{escape(self.job.name)}: {self.headline()}", *terms])

    def __rich__(self) -> RenderableType:
        total = self.job.progress.total_steps
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"[bold]{escape(self.job.name)}[/]",
            ProgressBar(total or 1, self.step, width=30),
            Text.from_markup(self.headline()),
        )
        terms = Table.grid(padding=(0, 2))
        for name, values in self.curves.items():
            terms.add_row(
                Text(name, "bright_black"), number_text(values[-1]), Text(sparkline(values, CURVE_CELLS), "blue")
            )
        return Group(head, terms)


def watch(client: Client, job_id: str, console: Console) -> Job:
    """Show a job until it has ended, and return it as it is then. Ctrl-C ends the watching, not the job."""
    view = View(client.job(job_id))
    looked = written = 0.0
    with _Screen(view, console) as screen:
        for event in client.follow(job_id):
            view.take(event)
            now = time.monotonic()
            if event.event == "status" or now - looked > LOOK_EVERY_S:
                view.job, looked = client.job(job_id), now
            for note in view.notes:
                console.print(note, soft_wrap=True)
            view.notes.clear()
            if screen is None and event.event == "metric" and now - written > LINE_EVERY_S:
                console.print(view.line(), soft_wrap=True)
                written = now
        view.job = client.job(job_id)
        view.status, view.step = view.job.status, view.job.progress.step
    return view.job


class _Screen:
    """The part of a terminal that is drawn anew; None where the output is no terminal."""

    def __init__(self, view: View, console: Console) -> None:
        self._live = Live(view, console=console, refresh_per_second=5) if console.is_terminal else None

    def __enter__(self) -> Live | None:
        return None if self._live is None else self._live.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, at)


def sparkline(values: Sequence[float], cells: int) -> str:
    """The values in order as a row of at most `cells` bars, each the mean of its share; flat where all are equal."""
    count = min(cells, len(values))
    edges = [len(values) * cell // count for cell in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _reason(body: dict[str, object]) -> str:
    error = body.get("error")
    if isinstance(error, dict):
        return f"({body.get('reason')}: {error.get('message')})"
    if body.get("resumed_from"):
        return f"from step {body['resumed_from']}"
    return f"as {body['model']}" if body.get("model") else ""
