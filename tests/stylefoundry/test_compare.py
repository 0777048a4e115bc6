"""`stylefoundry compare` and `client.comparisons`, with the models that come with the service."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.settings import Settings
from stylefoundry import Client
from stylefoundry.errors import Error
from tests.serving import working
from tests.stylefoundry.test_cli import Run, cli

__all__ = ["cli"]


@pytest.fixture
def worker(service_settings: Settings) -> Iterator[None]:
    with working(service_settings, warm=True):
        yield


@pytest.fixture
def pushed(client: Client, photos: Path) -> None:
    client.push_dataset("photos", photos)


@pytest.mark.usefixtures("worker", "pushed")
def test_a_sheet_and_a_table_come_from_one_command(cli: Run, client: Client, tmp_path: Path):
    told = ["--content", "photos:0.jpg", "--style", "photos:1.jpg", "--size", "48", "--note", "slow=two steps"]
    models = ["slow=gatys", "quick=method:collaborative-distillation", "--set", "slow:steps=2"]
    said = cli("compare", *models, *told, "-o", "sheet.jpg", "--name", "both")
    assert "two steps" in said.stdout
    assert "wct-small@1" in said.stdout
    assert Image.open(io.BytesIO((tmp_path / "sheet.jpg").read_bytes())).format == "JPEG"
    (made,) = client.comparisons.list()
    assert (made.name, made.status, [one.name for one in made.models]) == ("both", "succeeded", ["slow", "quick"])
    assert made.models[0].figures is not None
    assert made.models[0].figures.parameters == 0
    as_json = json.loads(cli("compare", *models, *told, "-o", "again.jpg", "--json").stdout)
    assert as_json["status"] == "succeeded"
    client.comparisons.delete(made.id)
    assert [left.id for left in client.comparisons.list()] == [as_json["id"]]


@pytest.mark.usefixtures("worker", "pushed")
def test_one_that_is_cancelled_says_so(client: Client):
    made = client.comparisons.submit(["gatys"], ("photos", ["0.jpg"]), ("photos", ["1.jpg"]), size=32)
    assert client.comparisons.cancel(made.id).status in ("cancelling", "cancelled")
    with pytest.raises(Error, match="cancelled"):
        client.comparisons.wait(made.id)
    with pytest.raises(Error, match="has no sheet yet"):
        client.comparisons.sheet(made.id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gatys", "gatys@1"], "takes part twice"),
        (["gatys", "--note", "other=x"], "--note other=x"),
        (["gatys", "--set", "other:steps=1"], "--set other:steps=1"),
        (["gatys", "--content", "photos"], "write DATASET:PATH"),
        (["gatys", "--content", "others:a.jpg"], "come from one dataset"),
        (["gatys", "-o", "sheet.png"], "its name ends in .jpg"),
    ],
)
def test_a_mistake_is_told_before_the_service_is_asked(cli: Run, arguments: list[str], message: str):
    said = cli("compare", *arguments, "--content", "photos:0.jpg", "--style", "photos:1.jpg", status=2)
    assert message in " ".join(said.stderr.replace("│", " ").split())
