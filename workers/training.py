"""A training job from its inputs to a finished task: the loop of `stylemodels.folder_run`, with a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property

from torch import Tensor

from orchestrator.store.tables import Job
from stylemodels.collapse import concerns
from stylemodels.data import Batches
from stylemodels.method import Batch, Stream, load_exactly
from stylemodels.train import Run, copied, due, preview_due, trained_state
from workers.data import ShardSource
from workers.gang import all_go_on
from workers.spool import Spool


class Training:
    """Steps a run to its end and tells the spool."""

    def __init__(self, run: Run, job: Job, sources: Mapping[str, ShardSource], spool: Spool) -> None:
        self.run, self.job, self.sources, self.spool = run, job, sources, spool
        self.config = run.task.config
        self.samples: dict[str, Future[bytes]] = {}  # of the last preview grid
        self._start: tuple[int, dict[str, Tensor]] | None = None  # step and weights of a grid that is still to be drawn

    def train(self) -> None:
        """Train to the last step, or until a stop is asked for.

        Raises what `Spool.raise_if_over`, `Run.advance` and `all_go_on` raise. Previews due at the step that the run
        begins with are drawn (again): the attempt before may have died before they arrived.
        """
        if self.run.step == self.run.total_steps:
            self._draw_previews_if_due()
        elif self._preview_is_due():
            self._start = self.run.step, copied(trained_state(self.run.task))
        with self.spool.watched():
            for batch in each_step(self.run, self.job, self.sources, self.spool.raise_if_over):
                self._step(batch)

    def finished_samples(self) -> dict[str, bytes]:
        """The last preview grid as JPEGs, by name."""
        return {name: jpeg.result() for name, jpeg in self.samples.items()}

    def _step(self, batch: Batch) -> None:
        images = sum(stream.count for stream in self.run.streams().values())
        terms = self.run.advance(batch)
        checkpoint_due = due(self.run.step, self.config.checkpoint_every, self.run.total_steps)
        if checkpoint_due:
            terms |= self._validation()
        self.spool.step_done(self.run.step, terms, images=images)
        for concern in concerns(terms):
            self.spool.log(f"step {self.run.step}: {concern}", "warning")
        if checkpoint_due:
            self.spool.checkpoint(self.run.snapshot())
        self._draw_start()
        self._draw_previews_if_due()

    def _validation(self) -> dict[str, float]:
        streams = self.run.task.validation_streams()
        if not streams:
            return {}
        with self._batches(streams) as batches:
            return self.run.evaluate(batches.round())

    def _draw_start(self) -> None:
        """The grid of the state that the run began with. Nobody is made to wait for it before the first step."""
        if self._start is None:
            return
        step, weights = self._start
        self._start = None
        task = self.run.task
        trained = copied(trained_state(task))
        load_exactly(task, weights, trained)
        self._draw(step)
        load_exactly(task, trained, weights)

    def _draw_previews_if_due(self) -> None:
        if self._preview_is_due():
            self._draw(self.run.step)

    def _preview_is_due(self) -> bool:
        return preview_due(self.config, self.run.step, self.run.total_steps)

    def _draw(self, step: int) -> None:
        grid = self.run.preview(self._preview_batch)
        self.samples = dict(self.spool.pictures(step, grid))

    @cached_property
    def _preview_batch(self) -> Batch:
        with self._batches(self.run.task.preview_streams()) as batches:
            return batches.at(0)

    def _batches(self, streams: Mapping[str, Stream]) -> Batches:
        return Batches(dict(streams), dict(self.sources), seed=self.job.seed, device=self.run.device)


def each_step(
    run: Run, job: Job, sources: Mapping[str, ShardSource], raise_if_over: Callable[[], None]
) -> Iterator[Batch]:
    """This worker's part of the batch of every step that is still to be done; who takes it advances the run.

    raise_if_over: asked by rank 0 before each of them. Raises what it raises, there, and what `all_go_on` raises.
    """
    share = run.group.rank, run.group.size
    while run.step < run.total_steps:
        streams = run.streams()
        with Batches(dict(streams), dict(sources), seed=job.seed, share=share, device=run.device) as batches:
            while run.step < run.total_steps and run.streams() == streams:
                all_go_on(run.group, raise_if_over)
                yield batches.at(run.step)
