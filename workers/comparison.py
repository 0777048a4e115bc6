"""A comparison, carried out: every model draws every pair, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from orchestrator.store import queue
from orchestrator.store.comparisons import SHEET, given_name
from orchestrator.store.queue import Moved
from stylemodels.comparison import Contestant, Drawn, Line, Named, blocks, bounded, compare
from stylemodels.images import to_float
from stylemodels.quality import shorter_side
from stylemodels.sheet import contact_sheet, thumbnail
from stylemodels.stylize import Model
from workers.endings import Superseded
from workers.inputs import read_picture
from workers.publish import put_log
from workers.stylize import Models
from workers.work import Work

FIGURES = ("content_loss", "style_loss", "seconds", "mpx_per_s", "peak_mib", "parameters")


def run(work: Work) -> Moved:
    """Draw, measure, and end the job. Raises Ended, and ValueError for what cannot be compared."""
    torch.set_num_threads(max(1, work.job.cpus))
    spec = work.job.config
    pictures = {
        "content": [shorter_side(_picture(work, "content", entry), spec["size"]) for entry in spec["content"]],
        "style": [bounded(_picture(work, "style", entry)) for entry in spec["style"]],
    }
    encoder = work.encoders.get(spec["encoder"], torch.device("cpu"), work.patience)
    models = Models(work.platform, work.patience)
    work.begin(step=0, total_steps=len(spec["models"]))
    _keep(work, pictures)
    drawn: list[Drawn] = []
    for place, entry in enumerate(spec["models"], start=1):
        work.spool.raise_if_over()
        contestant = Contestant(entry["name"], _model(models, entry), entry["controls"], entry["note"])

        def drew(one: Drawn, place: int = place) -> None:
            ((_, jpeg),) = work.spool.pictures(place, [(f"{one.content + 1}-{one.style + 1}", one.picture[0])])
            jpeg.result()  # encoded beside the next drawing it would be measured with it
            drawn.append(one._replace(picture=thumbnail(one.picture)))

        (line,) = compare(
            [contestant],
            pictures["content"],
            pictures["style"],
            encoder=encoder,
            size=spec["size"],
            drew=drew,
            report=lambda share: work.spool.raise_if_over(),
        )
        work.spool.step_done(place, figures(line), images=len(pictures["content"]) * len(pictures["style"]))
        work.spool.log(f"{line.name}: {line.seconds:.2f} s a picture, style_loss {line.style_loss:.3f}")
    work.spool.pictures(len(spec["models"]), [(SHEET, _sheet(spec, pictures, drawn))])
    work.spool.drain()
    work.patience.call(partial(put_log, work.platform.objects, work.job, work.spool.log_bytes()))
    moved = work.patience.call(partial(_finish, work))
    if moved is None:
        raise Superseded
    return moved


def _keep(work: Work, pictures: Mapping[str, list[Tensor]]) -> None:
    """Send contents and styles as they are compared; they are encoded before anything is measured."""
    given = [(given_name(role, n), one[0]) for role, those in pictures.items() for n, one in enumerate(those, start=1)]
    for _, jpeg in work.spool.pictures(0, given):
        jpeg.result()


def _model(models: Models, entry: Mapping[str, Any]) -> Model:
    """Raises ValueError that names the contestant."""
    try:
        return models.get(entry)
    except ValueError as error:
        raise ValueError(f"{entry['name']}: {error}") from error


def figures(line: Line) -> dict[str, float]:
    """Those that are known, by name."""
    values = asdict(line)
    return {name: float(values[name]) for name in FIGURES if values[name] is not None}


def _picture(work: Work, role: str, entry: Mapping[str, str]) -> Tensor:
    return read_picture(work.job, role, entry["path"], entry["sha256"], work.platform, work.patience)


def _sheet(spec: Mapping[str, Any], pictures: Mapping[str, list[Tensor]], drawn: list[Drawn]) -> Tensor:
    """(3, H, W) in [0, 1]: a block for each pair."""
    notes = {entry["name"]: entry["note"] for entry in spec["models"]}
    contents, styles = (
        [Named(entry["path"], picture) for entry, picture in zip(spec[role], pictures[role], strict=True)]
        for role in ("content", "style")
    )
    return as_tensor(contact_sheet(blocks(contents, styles, drawn, notes)))


def as_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def _finish(work: Work) -> Moved | None:
    with work.platform.db.write() as tx:
        return queue.finish(tx, work.ticket, None)
