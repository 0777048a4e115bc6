"""Videos in and out, with PyAV: upright frames and their times, parts in the final codec, and their joint with sound.

Only this file knows of containers, codecs and YUV. Times are whole numbers of the source's time base, counted from the
start of the source, and are carried over as they are: frames of unequal duration stay so.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from stylemodels.images import to_float, to_uint8

try:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Disposition
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("video needs PyAV: pip install 'stylefoundry[video]'", name=error.name) from error

# What is opened at all: containers of one file. Playlists and scripts, which name other files, are not among them.
READABLE = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
FORMATS: Mapping[str, str] = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".webm": "webm"}
# The first that this PyAV has. No codec here moves frames out of their order, so that parts can be put one behind
# another: dts = pts. `threads` is a number, for the bytes must not depend on the machine's cores.
CODECS: Mapping[str, tuple[str, ...]] = {
    ".mp4": ("libx264", "mpeg4"),
    ".mkv": ("libx264", "mpeg4"),
    ".mov": ("libx264", "mpeg4"),
    ".webm": ("libvpx-vp9",),
}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"crf": "18", "preset": "medium", "bf": "0", "threads": "4"},
    "mpeg4": {"qmin": "2", "qmax": "4", "threads": "1"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "2", "threads": "4"},
}
FINEST_MPEG4_CLOCK_HZ = 65_535  # its time base has 16 bits
BT709, BT601, UNSPECIFIED, LIMITED_RANGE = 1, 5, 2, 1  # as H.273 numbers them
BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"sidx", b"mfra", b"free", b"skip", b"wide", b"uuid", b"meta", b"pdin")
EBML, MATROSKA_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
HD_HEIGHT_PX = 720  # from here on players take a video that says nothing for BT.709


class Frame(NamedTuple):
    pts: int  # when it is shown
    end: int  # until when
    image: Tensor  # (1, 3, H, W), upright, RGB in [0, 1]


class Times(NamedTuple):
    """When the frames of a part are shown, in the source's time base."""

    pts: list[int]
    end: int  # of the last one


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A video file that can be read, and what its packets say."""

    path: Path
    frames: int
    time_base: Fraction
    rate: Fraction  # frames a second, on average
    origin_s: Fraction  # the file's first instant, which becomes 0
    pixel_aspect: Fraction  # width of a pixel over its height, upright
    colours: tuple[int, int]  # primaries and transfer curve, carried over


def examine(path: Path) -> Footage:
    """Read through a video's packets, without decoding more than a frame.

    Raises ValueError that names the file: not there, not a video, only sound, no frames, cut off.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        first = next(_decoded(container, stream, path), None)
        if first is None:
            raise ValueError(f"{path}: the video has no frames")
        time_base, rate = stream.time_base, stream.average_rate or stream.guessed_rate or Fraction(25)
        assert time_base is not None
        start_s = Fraction(container.start_time or 0, 1_000_000)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        colours = (stream.color_primaries, stream.color_trc)
    return Footage(
        path=path,
        frames=_count_packets(path),
        time_base=time_base,
        rate=rate,
        origin_s=start_s,
        pixel_aspect=1 / aspect if first.rotation % 180 else aspect,
        colours=colours,
    )


def frames_of(footage: Footage, *, skip: int = 0) -> Iterator[Frame]:
    """The frames in their order, but for the first `skip`. Raises ValueError for what cannot be decoded."""
    step = max(1, round(1 / footage.rate / footage.time_base))
    origin = round(footage.origin_s / footage.time_base)
    with _opened(footage.path) as container:
        stream = _video_stream(container, footage.path)
        stream.thread_type = "AUTO"
        last, size = origin - step, (0, 0)
        for number, frame in enumerate(_decoded(container, stream, footage.path)):
            pts = frame.pts if frame.pts is not None else frame.dts
            # Broken files repeat a time or lack it; no container takes that back.
            pts = last + step if pts is None else max(pts, last + 1) if number else pts
            size = size if number else (frame.width, frame.height)
            if number >= skip:
                yield Frame(pts - origin, pts - origin + (frame.duration or step), _upright_image(frame, *size))
            last = pts


def encoder_for(out: Path) -> str:
    """The codec that a file of this name gets. Raises ValueError for a name that is none of a video."""
    suffix = out.suffix.lower()
    if suffix not in CODECS:
        raise ValueError(f"{out}: videos are written as {', '.join(CODECS)}")
    for codec in CODECS[suffix]:
        if codec in av.codecs_available:
            return codec
    raise ValueError(f"{out}: this PyAV cannot write {' or '.join(CODECS[suffix])}; another name is another codec")


def check_sound(footage: Footage, out: Path) -> None:
    """Raises ValueError when the container that `out` names cannot hold the source's sound as it is."""
    with _opened(footage.path) as source, _written(BytesIO(), out.suffix) as container:
        for stream in source.streams.audio:
            try:
                container.add_stream_from_template(stream)
                container.start_encoding()
            except (ValueError, av.FFmpegError) as error:
                raise ValueError(
                    f"{out}: {out.suffix} cannot hold the sound of {footage.path} ({stream.codec_context.name}); "
                    "write .mkv, which holds every kind, or leave the sound out"
                ) from error


def write_part(path: Path, footage: Footage, codec: str, frames: Iterable[Frame]) -> Times:
    """Encode frames of one size into a file of their own. Odd sides get one more row or column, as the last.

    Returns their times, which the file itself does not keep exactly.
    """
    times = Times([], 0)
    with _written(path, path.suffix) as container:
        stream: VideoStream | None = None
        for pts, end, image in frames:
            picture = _yuv(image)
            stream = stream or _encoder(container, footage, codec, picture)
            times = Times([*times.pts, pts], end)
            assert stream.codec_context.time_base is not None
            picture.pts = round((pts - times.pts[0]) * footage.time_base / stream.codec_context.time_base)
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))
    return times


def count_frames(part: Path) -> int:
    """How many frames lie in a part; 0 if it cannot be read."""
    try:
        return _count_packets(part)
    except ValueError:
        return 0


def join(parts: Sequence[tuple[Path, Times]], footage: Footage, out: Path, *, sound: bool) -> None:
    """Parts one behind another and the source's sound beside them, nothing encoded again."""
    options = None
    if out.suffix.lower() in (".mp4", ".mov"):
        # The index comes first, so that a player can begin before it has the whole file. A first frame that comes
        # later than the sound is late by a time in the movie's own scale, milliseconds unless told.
        options = {"movflags": "faststart", "movie_timescale": str(footage.time_base.denominator)}
    with (
        _opened(footage.path) as source,
        _opened(parts[0][0]) as first,
        _written(out, out.suffix, options) as container,
    ):
        video = container.add_stream_from_template(_video_stream(first, parts[0][0]))
        video.time_base = footage.time_base
        heard = {s.index: container.add_stream_from_template(s) for s in source.streams.audio} if sound else {}
        seen = _video_packets(parts, footage, video)
        for packet in heapq.merge(seen, _sound_packets(source, heard, footage), key=_instant):
            container.mux(packet)


def _opened(path: Path) -> InputContainer:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    _check_end(path)
    try:
        return av.open(f"file:{path}", "r", options={"format_whitelist": READABLE}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video: {error.strerror}") from error


def _written(file: Path | BytesIO, suffix: str, options: dict[str, str] | None = None) -> OutputContainer:
    target = file if isinstance(file, BytesIO) else f"file:{file}"
    return av.open(target, "w", format=FORMATS[suffix.lower()], container_options=options)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first that moves; a song's cover is not one."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise ValueError(f"{path}: there is no video in it")


def _decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: the video is broken: {error.strerror}") from error


def _count_packets(path: Path) -> int:
    """One packet is one frame. Raises ValueError where the video ends before its time."""
    count, longest, last, reached = 0, 0, None, 0
    with _opened(path) as container:
        stream = _video_stream(container, path)
        start = stream.start_time or 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(f"{path}: cut off or broken after {count} frames")
            if packet.dts is None and packet.pts is None:
                continue  # the mark at the end
            time = packet.dts if packet.dts is not None else packet.pts
            assert time is not None
            longest = max(longest, packet.duration or 0, 0 if last is None else time - last)
            reached = max(reached, (time if packet.pts is None else packet.pts) + (packet.duration or 0) - start)
            count, last = count + 1, time
        promised = _promised_duration(stream)
    if promised > reached + longest + 1:
        raise ValueError(f"{path}: cut off after {count} frames, at {reached / promised:.0%} of its time")
    return count


def _promised_duration(stream: VideoStream) -> int:
    """How long the file's header says that the video is, in its time base; 0 if it says nothing."""
    assert stream.time_base is not None
    if "DURATION" in stream.metadata:  # Matroska's, "00:00:01.480000000"
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int((3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)) / stream.time_base)
    return stream.duration or 0


def _check_end(path: Path) -> None:
    """Raises ValueError where a file is shorter than it says itself: FFmpeg takes what it finds."""
    promised = _promised_size(path)
    if (missing := promised - path.stat().st_size) > 0:
        raise ValueError(f"{path}: cut off, {missing:,} bytes are missing at the end")


def _promised_size(path: Path) -> int:
    """In bytes, of files of the MP4 and the Matroska family; 0 of others and where it is left open."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[4:8] == b"ftyp":
            return _end_of_boxes(file, path.stat().st_size)
    segment = head.find(MATROSKA_SEGMENT)
    if not head.startswith(EBML) or segment < 0:
        return 0
    start = segment + len(MATROSKA_SEGMENT)
    width = 9 - head[start].bit_length()  # as many bytes as zeros lead the first, and one
    size = int.from_bytes(head[start : start + width], "big") - (1 << 7 * width)
    return 0 if size == (1 << 7 * width) - 1 else start + width + size


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last of the boxes ends that follow each other from the start of a file of `size` bytes.

    Cameras put bytes of their own behind them, which are passed over.
    """
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or head[4:8] not in BOXES:  # a length of 0: to the end
            break
        at += length
    return at


def _upright_image(frame: VideoFrame, width: int, height: int) -> Tensor:
    """(1, 3, H, W) in [0, 1]. width, height: as stored; a frame of another size is scaled to it."""
    source = frame.colorspace if frame.colorspace != UNSPECIFIED else BT709 if height >= HD_HEIGHT_PX else BT601
    rgb = frame.reformat(width, height, "rgb24", src_colorspace=source, dst_color_range=2).to_ndarray()
    image = to_float(torch.from_numpy(rgb).permute(2, 0, 1))[None]
    return torch.rot90(image, frame.rotation // 90, (2, 3)).contiguous()


def _yuv(image: Tensor) -> VideoFrame:
    height, width = image.shape[-2:]
    even = pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    frame = VideoFrame.from_ndarray(to_uint8(even).contiguous().numpy(), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)


def _encoder(container: OutputContainer, footage: Footage, codec: str, picture: VideoFrame) -> VideoStream:
    stream = container.add_stream(codec, rate=footage.rate, options=dict(OPTIONS[codec]))
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    context = stream.codec_context
    too_fine = codec == "mpeg4" and footage.time_base.denominator > FINEST_MPEG4_CLOCK_HZ
    context.time_base = Fraction(1, 60_000) if too_fine else footage.time_base
    context.sample_aspect_ratio = footage.pixel_aspect
    context.colorspace, context.color_range = BT709, LIMITED_RANGE
    context.color_primaries, context.color_trc = footage.colours
    return stream


def _instant(packet: Packet[Any]) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def _video_packets(parts: Sequence[tuple[Path, Times]], footage: Footage, target: VideoStream) -> Iterator[Packet[Any]]:
    starts = [pts for _, times in parts for pts in times.pts]
    ends = iter([*starts[1:], parts[-1][1].end])
    for path, times in parts:
        with _opened(path) as container:
            packets = (p for p in container.demux(_video_stream(container, path)) if p.dts is not None)
            for packet, pts in zip(packets, times.pts, strict=True):
                packet.stream, packet.time_base = target, footage.time_base
                packet.pts = packet.dts = pts
                packet.duration = next(ends) - pts
                yield packet


def _sound_packets(source: InputContainer, heard: Mapping[int, AudioStream], footage: Footage) -> Iterator[Packet[Any]]:
    streams = [source.streams[index] for index in heard]
    for packet in source.demux(*streams) if streams else ():
        if packet.dts is None:
            continue  # the mark at the end
        origin = round(footage.origin_s / packet.time_base)
        packet.dts -= origin
        packet.pts = packet.dts if packet.pts is None else packet.pts - origin
        packet.stream = heard[packet.stream_index]
        yield packet
