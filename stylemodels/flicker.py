"""How calm a stylised video is: the stability number of the fast style transfers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from torch import Tensor


def flicker(outputs: Iterable[Tensor], inputs: Iterable[Tensor], *, motion: tuple[int, int] | None = None) -> float:
    """How much a video's pictures change from one to the next, in terms of how much its frames do.

        mean |out_t - out_(t-1)| / mean |in_t - in_(t-1)|

    motion: by how many (rows, columns), downwards and to the right, all that is seen moves from frame to frame, if it
    is known. out_(t-1) is then moved along before it is compared, where both pictures show the same: 0 says that the
    style sticks to what it is painted on.

    outputs, inputs: pictures (1, 3, H, W), as many of either; each is looked at once, in order. The two may be of
    different sizes. Raises ValueError below two frames, for videos of different lengths, and where nothing moves.
    """
    changes = [0.0, 0.0]
    pairs = 0
    for (out_before, in_before), (out_now, in_now) in pairwise(_together(outputs, inputs)):
        changes[0] += _change(out_before, out_now, motion or (0, 0))
        changes[1] += _change(in_before, in_now, (0, 0))
        pairs += 1
    if pairs == 0:
        raise ValueError("inputs: there must be two frames at least")
    if changes[1] == 0:
        raise ValueError("inputs: all frames are the same, so there is nothing to compare with")
    return changes[0] / changes[1]


def _together(outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        yield from zip(outputs, inputs, strict=True)
    except ValueError as error:
        raise ValueError("outputs: there must be as many as inputs") from error


def _change(before: Tensor, now: Tensor, motion: tuple[int, int]) -> float:
    """Mean |now - before|, with `before` moved by `motion`, over where both are seen."""
    for axis, steps in zip((-2, -1), motion, strict=True):
        seen = now.shape[axis] - abs(steps)
        if seen <= 0:
            raise ValueError(f"motion: {motion} leaves nothing of a picture of {tuple(now.shape)} to compare")
        now = now.narrow(axis, max(steps, 0), seen)
        before = before.narrow(axis, max(-steps, 0), seen)
    return (now.double() - before.double()).abs().mean().item()
