"""`describe`: what the library can do, for people and for the service."""

from __future__ import annotations

import argparse
import json

from stylemodels.describe import describe


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Print methods with their tasks, settings and controls as JSON Schemas, the encoders, the code's digest."
    )


def run(_: argparse.Namespace) -> int:
    print(json.dumps(describe(), indent=1))
    return 0
