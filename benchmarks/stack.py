"""A whole embedded stack with pictures in it, and what its rows say about a job's time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stylefoundry import Client
from stylefoundry.demo import ADAPT, TRAIN
from stylefoundry.types import Event, Job
from tests.images import write_photographs
from tests.stacks import EmbeddedStack

DATASETS = {"content": "photos", "style": "paintings"}
TRAIN_CONFIG: Mapping[str, Any] = TRAIN  # the demo's sizes: width 16, 128 px, encoder small-narrow
ADAPT_CONFIG: Mapping[str, Any] = ADAPT


@dataclass(frozen=True)
class Service:
    """A stack that runs, a client of it, and the two folders that it has as datasets."""

    stack: EmbeddedStack
    client: Client
    photos: Path
    paintings: Path

    def train(self, name: str, config: Mapping[str, Any], **others: Any) -> Job:
        return self.client.submit(
            "metastyle", "train", datasets=DATASETS, name=name, config=dict(TRAIN_CONFIG) | dict(config), **others
        )

    def adapt(self, base: str, style: str, config: Mapping[str, Any]) -> Job:
        return self.client.submit(
            "metastyle", "adapt", datasets=DATASETS, style_image=style, base_model=base, name="adapted",
            config=dict(ADAPT_CONFIG) | dict(config),
        )  # fmt: skip


@contextmanager
def running_stack(changes: Mapping[str, str] | None = None) -> Iterator[Service]:
    """`stylefoundry up` on this machine with 24 photos and 4 paintings, and a warm worker that has the encoder.

    changes: more settings, without their prefix. It ends with this process, however that ends.
    """
    with tempfile.TemporaryDirectory(prefix="stylefoundry-bench-") as name:
        folder = Path(name)
        photos, paintings = folder / "photos", folder / "paintings"
        write_photographs(photos, 24, width=320, height=256)
        write_photographs(paintings, 4, width=320, height=256, first_seed=100)
        settings = {"WARM_ENCODER": str(TRAIN_CONFIG["encoder"]), "CPUS": "2", **(changes or {})}
        stack = EmbeddedStack(folder / "data", {f"STYLEFOUNDRY_{name}": value for name, value in settings.items()})
        try:
            stack.start()
            with Client(data_dir=stack.folder, patience_s=90) as client:
                client.push_dataset("photos", photos)
                client.push_dataset("paintings", paintings)
                yield Service(stack, client, photos, paintings)
        finally:
            stack.clean_up()


@dataclass(frozen=True)
class Times:
    """Seconds from a job's POST, by the database's clock."""

    claimed: float
    begun: float  # the worker starts the first step
    stepped: float  # the first step's metrics are in SQL
    finished: float


def times_of(job: Job, events: list[Event]) -> Times:
    """What the rows of a job that has succeeded say."""
    statuses = {event.body["status"]: event.at for event in events if event.event == "status"}
    first_metric = next(event.at for event in events if event.event == "metric")

    def since(at: datetime) -> float:
        return (at - job.created_at).total_seconds()

    return Times(
        *(since(at) for at in (statuses["starting"], statuses["running"], first_metric, statuses["succeeded"]))
    )
