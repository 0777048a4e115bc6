"""`evaluate`: a model in figures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from stylemodels.commands.arguments import add_machine, model_folder, weights
from stylemodels.commands.folders import pictures_under
from stylemodels.encoders import EncoderName, load_encoder
from stylemodels.images import load_picture
from stylemodels.quality import evaluate_model, table
from stylemodels.stylize import load_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Draw pairs of a content and a style picture and measure how near the results are to both: content_loss, ssim "
        "and perceptual against the content, style_loss, statistics and colour against the style. Beside the model "
        "stands the content itself, and with --gatys-steps what optimising the picture reaches."
    )
    command.epilog = "example: python -m stylemodels evaluate --model wct-small --content photos/ --style paintings/"
    command.add_argument("--model", required=True, metavar="DIR|NAME", help="a finished model")
    command.add_argument("--content", type=Path, required=True, metavar="DIR", help="folder of content pictures")
    command.add_argument(
        "--style", type=Path, required=True, metavar="DIR", help="folder of styles: the n-th in name order to the n-th"
    )
    command.add_argument("--pairs", type=int, default=10, metavar="N", help="at most (default: %(default)s)")
    command.add_argument(
        "--size", type=int, default=256, metavar="N", help="shorter side, pixels; 0 = as it is (default: %(default)s)"
    )
    command.add_argument(
        "--encoder", choices=get_args(EncoderName), default="small", help="who measures (default: %(default)s)"
    )
    command.add_argument("--gatys-steps", type=int, default=0, metavar="N", help="0 leaves it out (default)")
    command.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON beside the table")
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    for name, least in (("pairs", 1), ("size", 0), ("gatys_steps", 0)):
        if (value := getattr(options, name)) < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least {least} is allowed")
    pairs = list(zip(pictures_under(options.content), pictures_under(options.style), strict=False))[: options.pairs]
    rows = evaluate_model(
        load_model(model_folder(options.model), weights(options)),
        [load_picture(content) for content, _ in pairs],
        [load_picture(style) for _, style in pairs],
        encoder=load_encoder(options.encoder, weights(options)),
        gatys_steps=options.gatys_steps,
        size=options.size,
    )
    for number, (content, style) in enumerate(pairs, start=1):
        print(f"{number}: {content} in the style of {style}")
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0
