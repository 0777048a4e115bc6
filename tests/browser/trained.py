"""A tiny model, trained by the worker that runs."""

from __future__ import annotations

from pathlib import Path

from stylefoundry import Client
from tests.images import jpeg
from tests.serving import ADMIN_KEY

CONFIG = {
    "encoder": "random", "width": 4, "res_blocks": 1, "content_size": 32, "style_size": 32, "batch_size": 1,
    "meta_batch": 1, "steps": 1,
}  # fmt: skip


def trained_model(url: str, folder: Path) -> str:
    """The name of a model that is ready."""
    (folder / "photos").mkdir()
    for n in range(4):
        (folder / "photos" / f"{n}.jpg").write_bytes(jpeg(64, 48, seed=n))
    with Client(url, ADMIN_KEY) as client:
        client.push_dataset("photos", folder / "photos")
        datasets = {"content": "photos", "style": "photos"}
        job = client.submit("metastyle", "train", datasets=datasets, config=CONFIG, name="tiny")
        client.wait(job.id)
    return "tiny"
