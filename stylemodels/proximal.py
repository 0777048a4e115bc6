"""Terms that are added to the loss of a finished solver: photo-realism and calm videos.

After a step to Y = X_t - mu g_t the next picture is where the added terms and the way back to Y balance:

    (I + photo_lambda M + video_lambda D) X_{t+1} = Y + video_lambda D warp(X_before)

M is the content's matting Laplacian, D how reliably a pixel shows what it showed in the frame before. Without M this is
closed, with it conjugate gradients solve it. The explicit form of the first term is Y - 2 photo_lambda M X_t.

Sources: Puy & Perez 2019 (A Flexible Convolutional Solver for Fast Style Transfers) for adding terms at run time; the
implicit form is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stylemodels.flow import shift_between, shifted
from stylemodels.matting import LARGEST_EIGENVALUE, MattingLaplacian, conjugate_gradients
from stylemodels.settings import setting

SIGMA = 0.05  # colour difference at which a pixel counts as changed


@dataclass(frozen=True, kw_only=True)
class TermControls:
    """What a finished model can be told about added terms."""

    photo_lambda: float = setting(0.0, "photo-realism: 0 = off, 0.05 already tells; it fights the style", ge=0, le=100)
    photo_mode: Literal["implicit", "explicit"] = setting(
        "implicit", "photo-realism: solved for, or one plain gradient step, which is stable below 1/9 only"
    )
    photo_eps: float = setting(1e-4, "photo-realism: the larger, the smoother within edges", ge=1e-7, le=1)
    photo_cg_iters: int = setting(50, "photo-realism: most iterations of the solution, each step", ge=1, le=1000)
    video_lambda: float = setting(0.0, "video: pull towards the picture before, 0.5 to 5; 0 = off", ge=0, le=100)
    video_flow: Literal["none", "shift"] = setting(
        "none", "video: shift moves the picture before along with a camera that pans; what moves else is drawn anew"
    )


class Previous(NamedTuple):
    """The frame before and what was drawn of it, each (1, 3, H, W)."""

    content: Tensor
    output: Tensor


class AddedTerms:
    """What the added terms make of a step: called with Y and X_t, it gives X_{t+1}; all (1, 3, H, W)."""

    def __init__(self, content: Tensor, controls: TermControls, previous: Previous | None = None) -> None:
        """Raises ValueError for an explicit photo_lambda that would not be stable."""
        self.controls = controls
        self.matting: MattingLaplacian | None = None
        self.pull: Tensor | float = 0.0
        self.towards = content
        if controls.photo_lambda > 0:
            check_stable(controls)
            self.matting = MattingLaplacian(content, eps=controls.photo_eps)
        if controls.video_lambda > 0 and previous is not None:
            before = along(previous, content) if controls.video_flow == "shift" else previous
            self.pull = controls.video_lambda * reliability(content, before.content)
            self.towards = before.output

    def __call__(self, moved: Tensor, image: Tensor) -> Tensor:
        c = self.controls
        if self.matting is not None and c.photo_mode == "explicit":
            moved = moved - 2 * c.photo_lambda * self.matting(image).to(moved)
        if isinstance(self.pull, Tensor):
            moved = (moved + self.pull * self.towards) / (1 + self.pull)
        if self.matting is None or c.photo_mode == "explicit":
            return moved
        return self._solved(moved).to(moved)

    def _solved(self, closed: Tensor) -> Tensor:
        """The picture that balances all terms, float64; `closed`, where the search starts, balances all but M."""
        matting, weight, diagonal = self.matting, self.controls.photo_lambda, 1 + self.pull
        assert matting is not None
        start = closed.double()
        return conjugate_gradients(
            lambda x: diagonal * x + weight * matting(x), diagonal * start, start, self.controls.photo_cg_iters
        )


def check_stable(controls: TermControls) -> None:
    limit = 1 / LARGEST_EIGENVALUE
    if controls.photo_mode == "explicit" and controls.photo_lambda >= limit:
        raise ValueError(
            f"photo_lambda: {controls.photo_lambda} was given, but the explicit form is stable below {limit:.3f} only; "
            "choose photo_mode implicit"
        )


def reliability(content: Tensor, before: Tensor) -> Tensor:
    """D = exp(-|c - c_before|^2 / SIGMA^2): (1, 3, H, W) twice -> (1, 1, H, W), 1 where nothing changed."""
    return torch.exp(-(content - before).square().sum(1, keepdim=True) / SIGMA**2)


def along(previous: Previous, content: Tensor) -> Previous:
    """Both pictures moved as the whole frame has moved since. What comes in has no past: it repeats the border."""
    by = shift_between(previous.content, content)
    return Previous(shifted(previous.content, by), shifted(previous.output, by))


class VideoMemory:
    """The picture before, while a video is drawn. A drawing that was broken off can go on."""

    def __init__(self) -> None:
        self.previous: Previous | None = None
        self._busy = False

    def keep(self, content: Tensor, output: Tensor) -> None:
        self.previous = Previous(content, output)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on with the next frame. Empty before the first."""
        return {} if self.previous is None else {name: t.cpu().clone() for name, t in self.previous._asdict().items()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        self.previous = Previous(**{name: tensor.to(device) for name, tensor in state.items()}) if state else None

    @contextmanager
    def of_one_video(self) -> Iterator[None]:
        """While a video is drawn; afterwards the next one starts afresh. Raises ValueError while another video is."""
        if self._busy:
            raise ValueError("passes: with video_lambda frames are drawn in one pass, and one video at a time")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self.previous = None
