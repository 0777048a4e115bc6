"""Tiny videos for tests, made with PyAV: each frame's number is its brightness, a sine is the sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

CLOCK = Fraction(1, 12_800)
TICKS = 512  # of a frame at 25 a second
RATE = 48_000
CODING = 3 / 255  # what two codings may change in the mean of a picture without detail


class Shown(NamedTuple):
    """A decoded frame."""

    time: Fraction  # seconds
    image: Tensor  # (3, H, W), uint8


def gray_frames(count: int, height: int = 48, width: int = 64) -> Tensor:
    """(count, 3, height, width), uint8; frame n has the level 20 * n + 10."""
    levels = torch.arange(count, dtype=torch.uint8) * 20 + 10
    return levels.view(-1, 1, 1, 1).expand(-1, 3, height, width)


def write_clip(
    path: Path,
    frames: Tensor,
    *,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    sound: str = "aac",
    rotation: float = 0,
) -> Path:
    """A video of `frames` (N, 3, H, W), uint8, at 25 a second or at `pts` in units of CLOCK, with B-frames.

    sound: the codec of a sine as long as the frames last at 25 a second; "" for none.
    rotation: degrees counterclockwise that a player turns the stored pictures by.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"crf": "4"})
        video.height, video.width = frames.shape[-2:]
        video.pix_fmt = "yuv444p" if codec == "libx264" and (video.height % 2 or video.width % 2) else "yuv420p"
        video.codec_context.time_base = CLOCK
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=RATE, layout="mono") if sound else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = pts[number] if pts else number * TICKS, CLOCK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(_sine(len(frames) * RATE // 25)))
            container.mux(audio.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with nothing but half a second of sine."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        container.mux(audio.encode(_sine(RATE // 2)))
        container.mux(audio.encode(None))
    return path


def write_without_frames(path: Path) -> Path:
    """A video that was closed before its first frame came."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height = 64, 48
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        container.mux(audio.encode(_sine(RATE // 2)))
        container.mux(audio.encode(None))
    return path


def shown(path: Path) -> list[Shown]:
    """What a player shows of a video, and when."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [Shown(frame.pts * frame.time_base, _rgb(frame)) for frame in frames]


def levels(path: Path) -> list[float]:
    """The mean brightness of each frame shown, 0 to 1."""
    return [float(frame.image.float().mean() / 255) for frame in shown(path)]


def sound_of(path: Path) -> list[bytes]:
    """The packets of a video's sound."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def length_s(path: Path) -> float:
    """When the last picture of a video goes, seconds."""
    with av.open(str(path)) as container:
        if tag := container.streams.video[0].metadata.get("DURATION"):  # Matroska's
            return float(tag.removeprefix("00:00:"))
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return float(max((packet.pts + packet.duration) * packet.time_base for packet in packets))


def _rgb(frame: av.VideoFrame) -> Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)


def _sine(samples: int) -> av.AudioFrame:
    wave = 0.3 * np.sin(np.arange(samples) * 440 * 2 * np.pi / RATE)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    return frame
