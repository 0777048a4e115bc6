"""Videos drawn by models: order, times and sound; parts that survive a killed process; what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylemodels.export import Description, describe_model, write_model
from stylemodels.flicker import flicker
from stylemodels.images import load_picture, save_picture, to_float
from stylemodels.method import Needs, NoControls, Picture, Style, Task
from stylemodels.methods import find_task
from stylemodels.stylize import Model, load_model
from stylemodels.video import stylize_video
from stylemodels.video_files import examine, frames_of
from tests.stylemodels import linear_models
from tests.stylemodels.clips import (
    CLOCK,
    CODING,
    gray_frames,
    length_s,
    levels,
    shown,
    sound_of,
    write_clip,
)
from tests.stylemodels.toy import paintings, photos, small_task


class Negative(Task):
    """Draws 1 - x."""

    Controls = NoControls
    needs = Needs(datasets={})
    model_parts = ()
    styles = (0, 0)

    def stylize(self, content: Tensor, styles: Any, controls: Any) -> Picture:
        return Picture(1 - content)


def negative() -> Model:
    description = Description(method="negative", task="train", config={}, controls={}, parts={}, encoder=None, facts={})
    return Model(Negative(), description)


def small_model(name: str) -> Model:
    method, task = find_task(name)
    drawing = small_task(name).eval().requires_grad_(False)
    return Model(drawing, describe_model(drawing, method, task))


def moving(count: int, height: int = 48, width: int = 64) -> Tensor:
    """A window that moves over a toy photo: (count, 3, height, width), uint8."""
    world = (photos(1, 128)[0] * 255).round().to(torch.uint8)
    return torch.stack([world[:, n : n + height, 2 * n : 2 * n + width] for n in range(count)])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", gray_frames(12))


def draw(source: Path, out: Path, **settings: Any) -> Path:
    stylize_video(negative(), source, out, **settings)
    return out


@pytest.mark.parametrize(
    ("source", "out", "codec", "sound"),
    [
        ("clip.mp4", "out.mp4", "libx264", "aac"),
        ("clip.mov", "out.mov", "libx264", "aac"),
        ("clip.ts", "out.mp4", "libx264", "aac"),
        ("clip.mkv", "OUT.MKV", "libx264", "libmp3lame"),
        ("clip.webm", "out.webm", "libvpx-vp9", "libopus"),
    ],
)
def test_frames_stay_in_order_at_their_times_and_the_sound_is_kept(
    tmp_path: Path, source: str, out: str, codec: str, sound: str
):
    clip = write_clip(tmp_path / source, gray_frames(12), codec=codec, sound=sound)
    result = draw(clip, tmp_path / out, part_frames=5)
    before, after = shown(clip), shown(result)
    start = before[0].time if source == "clip.ts" else 0  # a transport stream's clock does not begin at 0
    late = after[0].time if source == "clip.ts" else 0
    assert [frame.time - start for frame in before] == [frame.time - late for frame in after]
    assert levels(result) == pytest.approx([1 - level for level in levels(clip)], abs=CODING)
    assert length_s(result) - late == pytest.approx(12 / 25, abs=0.002)
    if source == "clip.ts":
        assert len(sound_of(result)) == len(sound_of(clip)), "the packets differ by the header that streams repeat"
    else:
        assert sound_of(result) == sound_of(clip)


def test_frames_of_unequal_duration_stay_so(tmp_path: Path):
    pts = [0, 512, 600, 2000, 2001, 2600, 9000, 9512]
    clip = write_clip(tmp_path / "clip.mp4", gray_frames(8), pts=pts)
    result = draw(clip, tmp_path / "out.mp4", part_frames=3)
    assert [frame.time for frame in shown(result)] == [n * CLOCK for n in pts]
    assert length_s(result) == pytest.approx(length_s(clip))


def test_a_part_of_one_frame_is_a_part(clip: Path, tmp_path: Path):
    result = draw(clip, tmp_path / "out.mp4", part_frames=1)
    assert [frame.time for frame in shown(result)] == [frame.time for frame in shown(clip)]
    assert sorted(levels(result), reverse=True) == levels(result)


def test_a_video_without_sound_has_none(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", gray_frames(3), sound="")
    assert len(shown(draw(clip, tmp_path / "out.mp4"))) == 3


def test_sound_can_be_left_out(clip: Path, tmp_path: Path):
    result = draw(clip, tmp_path / "out.webm", sound=False)
    with pytest.raises(IndexError):
        sound_of(result)


@pytest.mark.parametrize(("rotation", "turned"), [(-90, (2, 1)), (90, (2, 1)), (180, (1, 2))])
def test_what_a_player_turns_is_drawn_upright(tmp_path: Path, rotation: int, turned: tuple[int, int]):
    frames = gray_frames(2).clone()
    frames[..., :24, :32] = 250  # top left as stored
    clip = write_clip(tmp_path / "clip.mp4", frames, rotation=rotation)
    upright = [frame.image for frame in frames_of(examine(clip))]
    result = draw(clip, tmp_path / "out.mp4")
    expected = torch.rot90(to_float(frames), rotation // 90, (2, 3))
    assert upright[0].shape[2:] == tuple(frames.shape[1 + axis] for axis in turned)
    assert (upright[0] - expected[:1]).abs().mean() < CODING
    drawn = next(frames_of(examine(result))).image
    assert (drawn - (1 - expected[:1])).abs().mean() < CODING


def test_odd_sides_get_one_more_row_and_column_like_the_last(tmp_path: Path):
    frames = moving(3, 47, 63)
    clip = write_clip(tmp_path / "clip.mkv", frames)
    result = shown(draw(clip, tmp_path / "out.mp4"))
    assert {frame.image.shape for frame in result} == {(3, 48, 64)}
    picture = result[0].image.float() / 255
    assert (picture[:, :47, :63] - (1 - to_float(frames[0]))).abs().mean() < 0.03
    assert (picture[:, 47] - picture[:, 46]).abs().mean() < 0.03
    assert (picture[:, :, 63] - picture[:, :, 62]).abs().mean() < 0.03


def test_each_frame_is_what_the_model_makes_of_it_as_a_picture(tmp_path: Path):
    model, styles = small_model("adain/train"), [Style(paintings(1, 40))]
    clip = write_clip(tmp_path / "clip.mp4", moving(5))
    controls = {"size": 32, "style_size": 32, "preserve_color": "luminance", "strength": 0.7}
    stylize_video(model, clip, tmp_path / "out.mkv", styles, controls, part_frames=2)
    for frame, result in zip(frames_of(examine(clip)), shown(tmp_path / "out.mkv"), strict=True):
        alone = model.stylize(frame.image, styles, controls)[0]
        assert alone.shape == (3, 32, 43)
        assert (result.image[..., :43].float() / 255 - alone).abs().mean() < 0.04


@dataclass
class Told:
    """What a run reports."""

    frames: list[tuple[int, int]]
    said: list[str]

    def report(self, frames: int, total_frames: int, frames_per_second: float) -> None:
        assert frames_per_second > 0
        self.frames.append((frames, total_frames))


def test_progress_is_told_frame_by_frame(clip: Path, tmp_path: Path):
    told = Told([], [])
    draw(clip, tmp_path / "out.mp4", part_frames=5, report=told.report, say=told.said.append)
    assert told.frames == [(n, 12) for n in range(1, 13)]
    assert told.said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


STOPPED = """
import os, signal, sys
from pathlib import Path
from stylemodels.images import load_picture
from stylemodels.method import Style
from stylemodels.stylize import load_model
from stylemodels.video import stylize_video

folder = Path(sys.argv[1])
def report(frames, total_frames, frames_per_second):
    if frames == 7:
        os.kill(os.getpid(), signal.SIGKILL)
stylize_video(load_model(folder / "model"), folder / "clip.mp4", folder / "out.mp4", [Style(load_picture(folder /
    "style.png"))], {controls}, part_frames=3, report=report)
"""


@pytest.mark.parametrize("controls", [{"temporal": "ema", "ema_decay": 0.8}, {"preserve_color": "coral"}])
def test_a_killed_run_goes_on_and_shows_what_an_undisturbed_one_shows(tmp_path: Path, controls: Mapping[str, Any]):
    method, task = find_task("linear/train")
    write_model(tmp_path / "model", small_task("linear/train"), method, task)
    save_picture(paintings(1, 40)[0], tmp_path / "style.png")
    clip = write_clip(tmp_path / "clip.mp4", moving(10))
    model, styles = load_model(tmp_path / "model"), [Style(load_picture(tmp_path / "style.png"))]
    stylize_video(model, clip, tmp_path / "whole.mp4", styles, controls, part_frames=3)

    script = STOPPED.format(controls=dict(controls))
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out.mp4").exists()
    told = Told([], [])
    stylize_video(
        model, clip, tmp_path / "out.mp4", styles, controls, part_frames=3, report=told.report, say=told.said.append
    )
    assert told.said == [f"{tmp_path / 'out.mp4.parts'}: going on after 6 frames"]
    assert told.frames == [(n, 10) for n in range(7, 11)]
    for whole, resumed in zip(shown(tmp_path / "whole.mp4"), shown(tmp_path / "out.mp4"), strict=True):
        assert whole.time == resumed.time
        assert torch.equal(whole.image, resumed.image)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not (tmp_path / "out.mp4.parts").exists()


def stopped(clip: Path, out: Path, after: int, **settings: Any) -> Path:
    """A run that ended with an error after so many frames; the folder of its parts."""

    def report(frames: int, total_frames: int, frames_per_second: float) -> None:
        if frames == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(clip, out, report=report, **settings)
    return out.with_name(f"{out.name}.parts")


def test_another_setting_starts_anew_and_says_so(clip: Path, tmp_path: Path):
    stopped(clip, tmp_path / "out.mp4", after=7, part_frames=3)
    told = Told([], [])
    result = draw(
        clip, tmp_path / "out.mp4", part_frames=3, controls={"size": 32}, report=told.report, say=told.said.append
    )
    assert told.said == [f"{tmp_path / 'out.mp4.parts'}: begun with another controls; starting anew"]
    assert told.frames[0] == (1, 12)
    assert len(shown(result)) == 12


def test_another_source_of_the_same_name_starts_anew(clip: Path, tmp_path: Path):
    stopped(clip, tmp_path / "out.mp4", after=7, part_frames=3)
    write_clip(clip, gray_frames(12).flip(0))
    told = Told([], [])
    result = draw(clip, tmp_path / "out.mp4", part_frames=3, say=told.said.append)
    assert "another source" in told.said[0]
    assert levels(result) == sorted(levels(result))


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_damaged_part_and_all_behind_it_are_drawn_again(clip: Path, tmp_path: Path, damage: str):
    parts = stopped(clip, tmp_path / "out.mp4", after=11, part_frames=3)
    victim = parts / "part-000001.mp4"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-40])
    else:
        victim.unlink()
    told = Told([], [])
    result = draw(clip, tmp_path / "out.mp4", part_frames=3, report=told.report, say=told.said.append)
    assert told.frames[0] == (4, 12)
    assert levels(result) == pytest.approx([1 - level for level in levels(clip)], abs=CODING)


def test_a_foreign_folder_in_the_way_is_left_alone(clip: Path, tmp_path: Path):
    folder = tmp_path / "out.mp4.parts"
    folder.mkdir()
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="in the way"):
        draw(clip, tmp_path / "out.mp4")
    assert (folder / "diary.txt").read_text() == "mine"


def test_a_mistake_costs_no_finished_part(clip: Path, tmp_path: Path):
    parts = stopped(clip, tmp_path / "out.mp4", after=7, part_frames=3)
    there = sorted(parts.iterdir())
    with pytest.raises(ValueError, match="styles"):
        draw(clip, tmp_path / "out.mp4", part_frames=3, styles=[Style(paintings(1, 32))])
    assert sorted(parts.iterdir()) == there


@pytest.mark.parametrize("name", ["out.avi", "out", "out.png", "out.mp3"])
def test_other_kinds_of_files_are_not_written(clip: Path, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"written as \.mp4, \.mkv, \.mov, \.webm"):
        draw(clip, tmp_path / name)


def test_a_container_that_cannot_hold_the_sound_is_named_before_anything_is_drawn(clip: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"out\.webm: \.webm cannot hold the sound of .*\(aac\)"):
        draw(clip, tmp_path / "out.webm")
    assert not (tmp_path / "out.webm.parts").exists()


def test_the_source_is_not_written_over(clip: Path, tmp_path: Path):
    before = clip.read_bytes()
    with pytest.raises(ValueError, match="the source itself"):
        draw(clip, tmp_path / "clip.mp4")
    assert clip.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(clip: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere"):
        draw(clip, tmp_path / "nowhere" / "out.mp4")


def test_frames_too_small_to_draw_are_refused(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", gray_frames(2, 8, 64))
    with pytest.raises(ValueError, match="at least 16 px"):
        draw(clip, tmp_path / "out.mp4")


def test_averages_over_time_make_a_video_calmer():
    """The stability number of `linear` with and without `temporal`, on a camera that moves over a photo."""
    model, styles = linear_models.model(), [Style(paintings(1, 48))]
    wide, pan_px = photos(1, 128), 4
    frames = [wide[..., 32:96, number * pan_px : number * pan_px + 64] for number in range(8)]
    numbers = {
        mode: flicker(model.frames(iter(frames), styles, {"temporal": mode}), frames, motion=(0, -pan_px))
        for mode in ("none", "ema")
    }
    assert 0 < numbers["ema"] < 0.9 * numbers["none"]
