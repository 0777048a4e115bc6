"""`python -m stylemodels VERB`: the library without any service. Each verb is a file of `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import torch

from stylemodels.checkpoint import Damaged
from stylemodels.train import Diverged

VERBS: Mapping[str, str] = {
    "describe": "print methods, settings and encoders as JSON",
    "train": "train on local folders of pictures",
    "stylize": "draw a picture, or a folder of them, with a finished model",
    "video": "draw a video, frame by frame, with a finished model",
    "compare": "draw the same pictures with several models",
    "classify": "tell the classes of pictures with a finished classifier",
    "gates": "show how a model weights its channels",
    "evaluate": "measure how well a model draws pairs of pictures",
    "cifar": "make folders of pictures of the binary CIFAR files",
    "convert": "make a model of published weights",
    "cost": "count what a training step costs",
    "export": "write a finished model as an ONNX file",
}
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after a message on what the caller got wrong."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parser(given[0] if given else "").parse_args(given)
        torch.set_num_threads(options.threads)
        status: int = options.run(options)
    except (ValueError, Damaged, Diverged, ModuleNotFoundError) as error:
        print(f"stylemodels: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstylemodels: stopped", file=sys.stderr)
        return INTERRUPTED
    return status


def parser(verb: str) -> argparse.ArgumentParser:
    """Knows all verbs by name, and what `verb` takes: what only another one needs is not imported."""
    top = argparse.ArgumentParser(
        prog="python -m stylemodels",
        description="Train and use style transfer models, without any service.",
        epilog="python -m stylemodels VERB --help says what a verb takes.",
    )
    top.set_defaults(threads=1)
    commands = top.add_subparsers(required=True, metavar="VERB", title="verbs")
    for name, line in VERBS.items():
        command = commands.add_parser(name, help=line)
        if name == verb:
            module = import_module(f"stylemodels.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return top


if __name__ == "__main__":
    sys.exit(main())
