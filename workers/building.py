"""From a job's row to its task, ready for the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from orchestrator.store.tables import Job
from stylemodels.method import Method, Task
from stylemodels.methods import find_task
from stylemodels.settings import build
from stylemodels.train import build_task
from workers.data import ShardSource
from workers.inputs import Encoders, open_inputs
from workers.patience import Patience
from workers.platform import Platform


class Built(NamedTuple):
    method: Method
    task: Task
    sources: Mapping[str, ShardSource]
    device: torch.device


@contextmanager
def built(job: Job, platform: Platform, encoders: Encoders, patience: Patience) -> Iterator[Built]:
    """The job's task with open datasets, on its device and its number of threads.

    Raises ValueError for what the job asks for and cannot have, StorageAway, Missing or Corrupt.
    """
    torch.set_num_threads(max(1, job.cpus))
    method, task_name = find_task(f"{job.method}/{job.task}")
    task_class = method.tasks[task_name]
    device = torch.device("cuda" if job.gpus else "cpu")
    with open_inputs(job, task_class.needs, platform, patience) as inputs:
        config: Any = build(task_class.Config, job.config, None if inputs.base is None else inputs.base.config)
        encoder = getattr(config, "encoder", None)
        task = build_task(
            task_class,
            config,
            seed=job.seed,
            encoder=None if encoder is None else encoders.get(encoder, device, patience),
            base=inputs.base,
            style_image=inputs.style_image,
            classes=inputs.classes,
            device=device,
        )
        yield Built(method, task, inputs.sources, device)
