"""`convert`: published weights of others as models of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from stylemodels.convert import CONVERSIONS, convert


def add_arguments(command: argparse.ArgumentParser) -> None:
    known = "; ".join(f"{name}: {conversion.title}" for name, conversion in CONVERSIONS.items())
    command.description = "Write published weights as a model that all verbs take. Only tensors are read, no code."
    command.epilog = "example: python -m stylemodels convert 16x downloads/ --out wct-16x"
    command.add_argument("name", metavar="NAME", help=known)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where their files lie")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the model")


def run(options: argparse.Namespace) -> int:
    convert(options.name, options.folder, options.out)
    print(options.out)
    return 0
