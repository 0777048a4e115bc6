"""`cifar`: the binary CIFAR files as folders of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from stylemodels.cifar import unpack


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Write the pictures of the binary CIFAR-10 or CIFAR-100 files as train/CLASS/*.png and test/CLASS/*.png: "
        "the one to train srm/classify on, the other for classify --labelled."
    )
    command.epilog = "example: python -m stylemodels cifar cifar-10-batches-bin/ --out cifar/"
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where the .bin files and the classes' names lie")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pictures")


def run(options: argparse.Namespace) -> int:
    for part, count in unpack(options.folder, options.out).items():
        print(f"{options.out / part}: {count} pictures")
    return 0
