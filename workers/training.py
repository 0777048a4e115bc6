"""A training job from its inputs to a finished task: the loop of `stylemodels.folder_run`, with a spool."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import cached_property

from orchestrator.store.tables import Job
from stylemodels.data import Batches
from stylemodels.method import Batch, Stream
from stylemodels.train import Run, due, preview_due
from workers.data import ShardSource
from workers.spool import Spool


class Training:
    """Steps a run to its end and tells the spool."""

    def __init__(self, run: Run, job: Job, sources: Mapping[str, ShardSource], spool: Spool) -> None:
        self.run, self.job, self.sources, self.spool = run, job, sources, spool
        self.config = run.task.config
        self.samples: dict[str, Future[bytes]] = {}  # of the last preview grid

    def train(self) -> None:
        """Train to the last step, or until a stop is asked for.

        Raises what `Spool.raise_if_over` and `Run.advance` raise. Previews due at the step that the run begins with
        are drawn (again): the attempt before may have died before they arrived.
        """
        self._draw_previews_if_due()
        with self.spool.watched():
            while self.run.step < self.run.total_steps:
                streams = self.run.streams()
                with self._batches(streams) as batches:
                    while self.run.step < self.run.total_steps and self.run.streams() == streams:
                        self.spool.raise_if_over()
                        self._step(batches.at(self.run.step))

    def finished_samples(self) -> dict[str, bytes]:
        """The last preview grid as JPEGs, by name."""
        return {name: jpeg.result() for name, jpeg in self.samples.items()}

    def _step(self, batch: Batch) -> None:
        terms = self.run.advance(batch)
        images = sum(tensor.shape[0] for tensor in batch.values() if tensor.ndim == 4)
        self.spool.step_done(self.run.step, terms, images=images)
        if due(self.run.step, self.config.checkpoint_every, self.run.total_steps):
            self.spool.checkpoint(self.run.snapshot())
        self._draw_previews_if_due()

    def _draw_previews_if_due(self) -> None:
        if preview_due(self.config, self.run.step, self.run.total_steps):
            grid = self.run.preview(self._preview_batch)
            self.samples = dict(self.spool.pictures(self.run.step, grid))

    @cached_property
    def _preview_batch(self) -> Batch:
        with self._batches(self.run.task.preview_streams()) as batches:
            return batches.at(0)

    def _batches(self, streams: Mapping[str, Stream]) -> Batches:
        return Batches(dict(streams), dict(self.sources), seed=self.job.seed, device=self.run.device)
