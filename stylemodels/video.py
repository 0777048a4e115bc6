"""Videos in the style of a model: frame by frame, in parts, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from stylemodels.checkpoint import digest_of, load_tensors, save_tensors
from stylemodels.describe import library_digest
from stylemodels.method import Style
from stylemodels.settings import as_json
from stylemodels.stylize import Model
from stylemodels.video_files import (
    OPTIONS,
    Footage,
    Frame,
    Times,
    check_sound,
    count_frames,
    encoder_for,
    examine,
    frames_of,
    join,
    write_part,
)

PART_FRAMES = 48
MANIFEST, UNFINISHED_JSON = "run.json", "unfinished.json"


class Progress(Protocol):
    """Who is told how it goes, after every frame. The total is what the source's packets let expect."""

    def __call__(self, frames: int, total_frames: int, frames_per_second: float, /) -> None: ...


def stylize_video(
    model: Model,
    source: Path,
    out: Path,
    styles: Sequence[Style] = (),
    controls: Mapping[str, Any] | None = None,
    *,
    sound: bool = True,
    part_frames: int = PART_FRAMES,
    report: Progress | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Draw every frame of a video, upright, at its own time, and keep the sound as it is.

    out: .mp4, .mkv, .mov (H.264) or .webm (VP9), 8 bits, 4:2:0; odd sides get one more row or column of pixels. It
        appears when it is whole. Until then finished parts lie in a folder beside it, NAME.parts; the same call again
        goes on behind the last of them, and the pictures are those of a run that was never stopped.
    styles, controls: as for `Model.frames`. sound: False leaves it out.
    part_frames: how many frames a part has, and so how many are lost at most; each part begins with a key frame.
    say: told in a sentence when a run goes on, and when the folder is of another run and is thrown away.

    Raises ValueError that names the file (not a video, no video in it, no frames, cut off, a kind of file that is not
    written or cannot hold the sound), the style or the control that cannot be used.
    """
    codec = encoder_for(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out}: this is the source itself; write to another file")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}")
    footage = examine(source)
    if sound:
        check_sound(footage, out)
    run = run_facts(model, source, styles, controls, codec=codec, part_frames=part_frames)
    parts = Parts(out, footage, codec, run, say)
    draw_parts(model, parts, styles, controls, part_frames, report)
    parts.join(sound=sound)


def draw_parts(
    model: Model,
    parts: Parts,
    styles: Sequence[Style],
    controls: Mapping[str, Any] | None,
    part_frames: int,
    report: Progress | None,
) -> None:
    """All frames that are not in a part yet."""
    done = parts.frames
    started_at = time.monotonic()
    model.task.load_video_state(parts.state())
    opening = next(frames_of(parts.footage)).image if done else None
    coming: deque[Frame] = deque()  # those that are being drawn: a method may read ahead
    frames = _remembered(frames_of(parts.footage, skip=done), coming)
    pictures = model.frames(frames, styles, controls, opening=opening)

    def drawn() -> Iterator[Frame]:
        for number, picture in enumerate(pictures, start=1):
            yield coming.popleft()._replace(image=picture)
            if report is not None:
                speed = number / (time.monotonic() - started_at)
                report(done + number, max(done + number, parts.footage.frames), speed)

    timed = drawn()
    for frame in timed:
        parts.add(chain([frame], islice(timed, part_frames - 1)), model.task.video_state)


def _remembered(frames: Iterator[Frame], coming: deque[Frame]) -> Iterator[Tensor]:
    for frame in frames:
        coming.append(frame)
        yield frame.image


class Parts:
    """The folder of a video's finished parts.

    Of each: its video, what the method remembers at its end, and its times. Every file gets its name when it is whole,
    the times last.
    """

    def __init__(
        self, out: Path, footage: Footage, codec: str, run: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """Take over what an earlier try of the same run left. Nothing is written or thrown away before `add`."""
        self.out, self.footage, self.codec, self.run = out, footage, codec, run
        self.folder = out.with_name(f"{out.name}.parts")
        self.times: list[Times] = []
        if self._is_of_this_run(say):
            while (times := self._finished(len(self.times))) is not None:
                self.times.append(times)
        if self.times:
            say(f"{self.folder}: going on after {self.frames} frames")

    @property
    def frames(self) -> int:
        """How many are finished."""
        return sum(len(times.pts) for times in self.times)

    def state(self) -> dict[str, Tensor]:
        """What the method remembered at the end of the last part."""
        return load_tensors(self._file(len(self.times) - 1, ".safetensors")) if self.times else {}

    def add(self, frames: Iterator[Frame], state: Callable[[], dict[str, Tensor]]) -> None:
        """Write the next part; `state` is asked when its last frame has been drawn."""
        number = len(self.times)
        if number == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            self._write_json(self.run, self.folder / MANIFEST)
        video = self.folder / f"unfinished{self.out.suffix}"
        times = write_part(video, self.footage, self.codec, frames)
        tensors = self.folder / "unfinished.safetensors"
        save_tensors(state(), tensors)
        self._keep(video, self._file(number, self.out.suffix))
        self._keep(tensors, self._file(number, ".safetensors"))
        self._write_json({"pts": times.pts, "end": times.end}, self._file(number, ".json"))
        self.times.append(times)

    def join(self, *, sound: bool) -> None:
        """Make the video of the parts, and put the folder away."""
        joined = self.folder / f"joined{self.out.suffix}"
        files = [self._file(number, self.out.suffix) for number in range(len(self.times))]
        join(list(zip(files, self.times, strict=True)), self.footage, joined, sound=sound)
        self._keep(joined, self.out)
        shutil.rmtree(self.folder)

    def _is_of_this_run(self, say: Callable[[str], None]) -> bool:
        if not self.folder.exists():
            return False
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            if any(path.name != UNFINISHED_JSON for path in self.folder.iterdir()):
                raise ValueError(f"{self.folder}: in the way, and not the parts of a video; move it")
            return False
        written = json.loads(manifest.read_text())
        if other := [name for name in self.run if written.get(name) != self.run[name]]:
            say(f"{self.folder}: begun with another {', '.join(other)}; starting anew")
        return not other

    def _finished(self, number: int) -> Times | None:
        """The times of a part that is there and whole."""
        record = self._file(number, ".json")
        if not record.exists():
            return None
        times = Times(**json.loads(record.read_text()))
        return times if count_frames(self._file(number, self.out.suffix)) == len(times.pts) else None

    def _file(self, number: int, suffix: str) -> Path:
        return self.folder / f"part-{number:06}{suffix}"

    def _write_json(self, value: Any, path: Path) -> None:
        unfinished = self.folder / UNFINISHED_JSON
        unfinished.write_text(json.dumps(value, indent=1))
        self._keep(unfinished, path)

    def _keep(self, unfinished: Path, path: Path) -> None:
        """Give a file its name once its bytes are on the disk."""
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)


def run_facts(
    model: Model,
    source: Path,
    styles: Sequence[Style],
    controls: Mapping[str, Any] | None,
    *,
    codec: str,
    part_frames: int,
) -> dict[str, Any]:
    """All that the pictures depend on, JSON: parts of one run are never put together with another's."""
    told = model.told(controls)
    with source.open("rb") as file:
        source_digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "source": source_digest,
        "model": digest_of(model.task.state_dict()),
        "styles": [style_digest(style) for style in styles],
        "controls": {**as_json(told.options), **as_json(told.controls)},
        "codec": {"name": codec, **OPTIONS[codec]},
        "part_frames": part_frames,
        "library": library_digest(),
    }
    normal: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists, as in the file
    return normal


def style_digest(style: Style) -> str:
    """sha256 over a style's picture, weight, mask and label maps."""
    tensors = {"image": style.image}
    if style.mask is not None:
        tensors["mask"] = style.mask
    if style.regions is not None:
        tensors |= {"content_labels": style.regions.content, "style_labels": style.regions.style}
    return f"{digest_of(tensors)} {style.weight}"
