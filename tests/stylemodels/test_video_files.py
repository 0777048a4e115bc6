"""Video files: colours and times through the codecs, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from stylemodels.video_files import Frame, encoder_for, examine, frames_of, join, write_part
from tests.stylemodels.clips import (
    CODING,
    TICKS,
    gray_frames,
    levels,
    shown,
    write_clip,
    write_sound,
    write_without_frames,
)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", gray_frames(4))


@pytest.mark.parametrize("colour", [(250, 10, 10), (20, 200, 40), (30, 40, 220), (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_colours_come_out_as_they_went_in(clip: Path, tmp_path: Path, name: str, colour: tuple[int, int, int]):
    footage, out = examine(clip), tmp_path / name
    wanted = torch.tensor(colour).view(1, 3, 1, 1) / 255
    frames = [Frame(n * TICKS, (n + 1) * TICKS, wanted.expand(1, 3, 48, 64)) for n in range(2)]
    join([(out, write_part(out, footage, encoder_for(out), frames))], footage, tmp_path / f"joined-{name}", sound=False)
    for frame in shown(tmp_path / f"joined-{name}"):
        assert frame.image.float().mean((1, 2)).tolist() == pytest.approx(colour, abs=3)


def test_a_codec_with_a_coarse_clock_keeps_fine_times(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.ts", gray_frames(4))  # 90,000 ticks a second, more than MPEG-4 can count
    footage = examine(clip)
    part = tmp_path / "part.mp4"
    times = write_part(part, footage, "mpeg4", frames_of(footage))
    join([(part, times)], footage, tmp_path / "out.mp4", sound=True)
    result = shown(tmp_path / "out.mp4")
    assert [frame.time - result[0].time for frame in result] == [Fraction(n, 25) for n in range(4)]
    assert levels(tmp_path / "out.mp4") == pytest.approx(levels(clip), abs=2 * CODING)


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


UNUSABLE = {
    "not there": (lambda folder: folder / "nowhere.mp4", "there is no such file"),
    "words": (lambda folder: _written(folder / "words.mp4", b"not a video " * 50), "not a readable video"),
    "empty file": (lambda folder: _written(folder / "empty.mp4", b""), "not a readable video"),
    "playlist": (
        lambda folder: _written(folder / "list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n"),
        "not a readable video",
    ),
    "only sound": (lambda folder: write_sound(folder / "sound.m4a"), "no video in it"),
    "no frame": (lambda folder: write_without_frames(folder / "none.mkv"), "has no frames"),
    "cut mp4": (lambda folder: cut(write_clip(folder / "cut.mp4", gray_frames(12)), 0.6), "cut off"),
    "cut mkv": (lambda folder: cut(write_clip(folder / "cut.mkv", gray_frames(12)), 0.6), "cut off"),
    "cut webm": (
        lambda folder: cut(write_clip(folder / "cut.webm", gray_frames(12), codec="libvpx-vp9", sound="libopus"), 0.6),
        "cut off",
    ),
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_whole_video_is_refused_by_name(tmp_path: Path, kind: str):
    make, message = UNUSABLE[kind]
    source = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        examine(source)
    assert str(source) in str(caught.value)


def test_bytes_that_a_camera_puts_behind_the_last_box_are_passed_over(clip: Path):
    with clip.open("ab") as file:
        file.write(b"\0\0\xff\xffserial number 17")
    assert examine(clip).frames == 4


def test_a_transport_stream_is_made_to_be_cut(tmp_path: Path):
    assert 0 < examine(cut(write_clip(tmp_path / "cut.ts", gray_frames(12)), 0.6)).frames < 12


def test_frames_can_be_passed_over_and_keep_their_times(clip: Path):
    footage = examine(clip)
    assert footage.frames == 4
    whole = list(frames_of(footage))
    assert [frame.pts for frame in whole] == [n * TICKS for n in range(4)]
    assert [frame.end for frame in whole] == [(n + 1) * TICKS for n in range(4)]
    for frame, later in zip(whole[2:], frames_of(footage, skip=2), strict=True):
        assert (frame.pts, frame.end) == (later.pts, later.end)
        assert torch.equal(frame.image, later.image)
