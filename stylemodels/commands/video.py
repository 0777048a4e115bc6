"""`video`: a video in the style of a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from stylemodels.commands import progress
from stylemodels.commands.arguments import add_drawing, add_machine, drawing_model, drawing_styles, settings
from stylemodels.video import PART_FRAMES, stylize_video


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Draw a video frame by frame, every frame at its own time, and keep its sound as it is. "
        "What is finished lies in the folder OUT.parts until the end: a call that was stopped goes on where it was."
    )
    command.epilog = (
        "example: python -m stylemodels video --model linear-train/model --content walk.mp4 --style wave.jpg "
        "--set temporal=ema size=512 --out wave.mp4"
    )
    add_drawing(command)
    command.add_argument(
        "--content", type=Path, required=True, metavar="FILE", help="mp4, mov, mkv, webm, avi, ts, gif, …"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".mp4, .mkv, .mov: H.264; .webm: VP9")
    command.add_argument("--no-sound", action="store_true", help="leave the sound out")
    command.add_argument(
        "--part-frames",
        type=int,
        default=PART_FRAMES,
        metavar="N",
        help="frames in a part: as many are lost at most when the call is stopped (default: %(default)s)",
    )
    add_machine(command)


def run(options: argparse.Namespace) -> int:
    if options.part_frames < 1:
        raise ValueError(f"--part-frames {options.part_frames}: at least 1 is allowed")
    controls = settings(options.set)
    model = drawing_model(options)
    model.told(controls)
    stylize_video(
        model,
        options.content,
        options.out,
        drawing_styles(options),
        controls,
        sound=not options.no_sound,
        part_frames=options.part_frames,
        report=show_frame,
        say=progress.tell,
    )
    progress.end()
    print(options.out)
    return 0


def show_frame(frames: int, total_frames: int, frames_per_second: float) -> None:
    share = progress.bar(frames / total_frames)
    progress.show(f"{share} {frames}/{total_frames} frames  {frames_per_second:.2f} frames/s")
