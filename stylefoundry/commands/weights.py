"""`stylefoundry weights`: the operator's command for encoders whose weights do not come with the package."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress

from stylefoundry.address import folder_of
from stylefoundry.terminal import DataDir, out, size_text

app = typer.Typer(help="Published weights of encoders (operators).", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Published weights of encoders (operators)."""


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="vgg16 or vgg19.")],
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="torchvision's file, e.g. vgg16-397923af.pth.")],
    data_dir: DataDir = None,
) -> None:
    """Put an encoder's weights into the object store: jobs may name the encoder from then on."""
    from stylefoundry import encoder_weights  # torch and the server's packages: not for every command

    with Progress(console=out, disable=not out.is_terminal, transient=True) as bar:
        task = bar.add_task("fetching", total=None, visible="://" in source)
        added = encoder_weights.add(
            name,
            source,
            folder_of(data_dir),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(f"[green]{added.name}[/] is there: {size_text(added.size)}, sha256 {added.sha256}", soft_wrap=True)
