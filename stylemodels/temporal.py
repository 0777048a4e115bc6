"""What a video's frames share: statistics that are averaged, or held, from one cut to the next.

A frame by frame drawing flickers with the statistics that it takes from each frame alone. They move slowly, but for
cuts, where nothing may be carried over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stylemodels.settings import setting

THUMBNAIL = (16, 16)  # coarse enough that motion, grain and compression hardly show


@dataclass(frozen=True, kw_only=True)
class TemporalControls:
    """What a finished model can be told about the frames of a video."""

    temporal: Literal["none", "ema", "keyframe"] = setting(
        "none", "video: what frames share until the next cut. ema: averaged statistics, keyframe: those of the first"
    )
    ema_decay: float = setting(0.9, "ema: share of the earlier frames in the average", ge=0, lt=1)
    cut_threshold: float = setting(0.1, "mean difference of two frames, 0 to 1, above which there is a cut", ge=0, le=1)


class TemporalAverage:
    """The statistics of a video so far. Its state is a few small tensors: a drawing that was broken off can go on."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None  # the last frame, small
        self._held: list[Tensor] = []
        self._busy = False

    def follow(self, frame: Tensor, own: Sequence[Tensor], controls: TemporalControls) -> list[Tensor]:
        """The statistics to draw `frame` with, where its own are `own`: tensors of any shapes, the same every time.

        frame: (1, 3, H, W) in [0, 1]. "none" gives `own`, "keyframe" those of the first frame after a cut, "ema"
        ema_decay * held + (1 - ema_decay) * own. A cut is where the mean absolute difference of two consecutive frames,
        shrunk to 16 x 16, exceeds `cut_threshold`.
        """
        if controls.temporal == "none":
            return list(own)
        # cloned as any small copy of a frame of that size would be the frame itself
        seen = interpolate(frame.detach(), size=THUMBNAIL, mode="area").clone()
        cut = self._seen is None or float((seen - self._seen).abs().mean()) > controls.cut_threshold
        self._seen = seen
        if cut:
            self._held = list(own)
        elif controls.temporal == "ema":
            self._held = [held.lerp(new, 1 - controls.ema_decay) for held, new in zip(self._held, own, strict=True)]
        return self._held

    def state(self) -> dict[str, Tensor]:
        """After some frame: what `restore` needs to go on with the next one. Empty before the first."""
        if self._seen is None:
            return {}
        held = {f"held.{place}": tensor for place, tensor in enumerate(self._held)}
        return {name: tensor.detach().cpu().clone() for name, tensor in ({"seen": self._seen} | held).items()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Go on from `state`."""
        self._seen = state["seen"].to(device) if state else None
        self._held = [state[f"held.{place}"].to(device) for place in range(len(state) - 1)] if state else []

    @contextmanager
    def of_one_video(self, frames: Iterator[Tensor], controls: TemporalControls) -> Iterator[Iterator[Tensor]]:
        """All of `frames`, to be drawn inside; afterwards the next video starts afresh.

        Raises ValueError when there is no frame, and, where they share anything, while another video is drawn: a second
        pass over the frames of the first would mix with it.
        """
        first = next(frames, None)
        if first is None:
            raise ValueError("frames: the video has none")
        if controls.temporal == "none":
            yield chain([first], frames)
            return
        if self._busy:
            raise ValueError(
                "passes: frames that share statistics (temporal) are drawn in one pass, and one video at a time"
            )
        self._busy = True
        try:
            yield chain([first], frames)
        finally:
            self._busy = False
            self.restore({})
