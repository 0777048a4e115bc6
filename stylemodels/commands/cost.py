"""`cost`: what a training step costs, as JSON, from settings on the standard input."""

from __future__ import annotations

import argparse
import json
import sys

from stylemodels.cost import step_costs


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        'Read {"task": "method/task", "config": {…}, "base_config": {…}|null} and print, for each phase, the floating '
        "point operations, bytes moved and bytes held of one step. Nothing is computed: it takes no memory."
    )
    command.epilog = """example: python -m stylemodels cost <<< '{"task": "sanet/train", "config": {}}'"""


def run(_: argparse.Namespace) -> int:
    asked = json.load(sys.stdin)
    print(json.dumps(step_costs(asked["task"], asked["config"], asked.get("base_config"))))
    return 0
