"""The whole service in one go: photographs in, two styles learnt, a contact sheet out.

    python -m stylefoundry.demo [--content DIR] [--style FILE] [--data-dir DIR] [--out DIR] [--keep]

Starts a stack of its own, pushes two datasets, trains a MetaStyle start from which every style is near, adapts it to
two styles, fetches both models, and stylises photos that no training has seen. The contact sheet's path is the last
line of the output.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from stylefoundry.client import Client
from stylefoundry.commands.datasets import Bars
from stylefoundry.demo_pictures import Pictures, contact_sheet, prepare
from stylefoundry.errors import JobFailed
from stylefoundry.terminal import out, run, span_text
from stylefoundry.types import Job
from stylefoundry.watch import watch

# Found by short runs and by looking at the pictures; about four minutes on two cores.
SHARED: dict[str, Any] = {"content_size": 128, "batch_size": 2, "style_weight": 1000.0}
TRAIN = SHARED | {
    "encoder": "small-narrow",
    "width": 16,
    "style_size": 128,
    "meta_batch": 1,
    "steps": 150,
    "checkpoint_every": 50,
    "preview_every": 50,
}
ADAPT = SHARED | {"style_size": 256, "steps": 400, "checkpoint_every": 200, "preview_every": 50, "preview_images": 2}


def demo(
    content: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Your photos.")] = None,
    style: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Your painting.")] = None,
    data_dir: Annotated[Path, typer.Option(help="The stack's own folder.")] = Path(".stylefoundry-demo"),
    output: Annotated[Path, typer.Option("--out", help="Where models and pictures go.")] = Path("demo-output"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
) -> None:
    """From photographs to a contact sheet, through the real service."""
    began = time.monotonic()
    pictures = prepare(output / "pictures", content, style)
    with stack(data_dir, keep=keep), Client(data_dir=data_dir) as client:
        push(client, pictures)
        models = train(client, pictures)
        sheet = draw(client, pictures, models, output)
    out.print(f"\nDone in {span_text(time.monotonic() - began)}.")
    if keep:
        out.print(f"The service still runs: stylefoundry status --data-dir {data_dir}", soft_wrap=True)
    out.print(str(sheet), soft_wrap=True)


@contextmanager
def stack(data_dir: Path, *, keep: bool) -> Iterator[None]:
    """The service on this machine; stopped in the end if it was this demo that started it."""
    command = [sys.executable, "-m", "stylefoundry.cli"]
    where = ["--data-dir", str(data_dir)]
    ran = subprocess.run([*command, "status", *where], capture_output=True).returncode == 0
    title("Start the service" if not ran else "The service runs already")
    subprocess.run([*command, "up", "--detach", *where], check=True)
    try:
        yield
    finally:
        if not ran and not keep:
            subprocess.run([*command, "down", *where], check=True)


def push(client: Client, pictures: Pictures) -> None:
    title("Push two datasets")
    for name, folder in (("photos", pictures.contents), ("paintings", pictures.styles)):
        with Bars() as bars:
            dataset = client.push_dataset(name, folder, progress=bars.report)
        out.print(f"{dataset.name}@{dataset.version}: {dataset.count} pictures")


def train(client: Client, pictures: Pictures) -> list[str]:
    """One start, two styles from it. Returns the models, in the order of the styles. Raises JobFailed."""
    datasets = {"content": "photos", "style": "paintings"}
    title("Train a start from which every style is near (metastyle train)")
    meta = client.submit("metastyle", "train", datasets=datasets, config=TRAIN, name="meta")
    succeeded(watch(client, meta.id, out))
    title(f"Adapt it to {' and '.join(Path(style).stem for style in pictures.adapt_to)} (metastyle adapt)")
    jobs = [
        client.submit(
            "metastyle",
            "adapt",
            datasets=datasets,
            style_image=style,
            base_model="meta",
            config=ADAPT,
            name=model_name(style),
        )
        for style in pictures.adapt_to
    ]
    return [succeeded(watch(client, job.id, out)) for job in jobs]


def succeeded(job: Job) -> str:
    """The model that a job made. Raises JobFailed."""
    if job.model is None:
        raise JobFailed(job)
    out.print(f"[green]{escape(job.model)}[/]")
    return job.model


def draw(client: Client, pictures: Pictures, models: list[str], output: Path) -> Path:
    """Fetch the models, stylise every unseen photo with each on the service, and lay it all out."""
    title("Fetch the models and stylise photos that they have never seen")
    for model in models:
        name, _, version = model.partition("@")
        out.print(str(client.fetch_model(name, version, output / "models" / f"{name}-{version}")), soft_wrap=True)
    results = [
        [output / f"{photo.stem}-{model.partition('@')[0]}.png" for model in models] for photo in pictures.unseen
    ]
    for photo, row in zip(pictures.unseen, results, strict=True):
        for model, target in zip(models, row, strict=True):
            name, _, version = model.partition("@")
            target.write_bytes(client.stylize(name, photo, version=version))
            out.print(str(target), soft_wrap=True)
    sheet = output / "contact-sheet.png"
    contact_sheet(pictures.unseen, [pictures.styles / style for style in pictures.adapt_to], results, sheet)
    return sheet


def model_name(style: str) -> str:
    """A name that the service takes, from a file's name."""
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(style).stem)
    return f"style-{stem}"[:63]


def title(text: str) -> None:
    out.print(f"\n[bold]{escape(text)}[/]")


def main() -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(demo)
    run(app)


if __name__ == "__main__":
    main()
