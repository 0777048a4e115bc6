"""Mode collapse: a generator that draws the same whatever it is shown. No loss of an adversarial game tells it.

At every checkpoint such a task draws a few pictures and says how varied they are (`variety`), in figures whose names
end in `variety`; the loops put `concerns` about them into the job's log.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

LEAST_VARIETY = 0.02


def variety(drawn: Tensor, shown: Tensor) -> float:
    """How much the items of `drawn` (N, ...) differ, as a share of how much those of `shown` (N, ...) do.

    Drawing n was made from picture n of `shown`; colours have the same range in both. 0: all drawings are the same,
    1: they differ as their models do, and that is also said of models that are all the same.
    """
    given = difference(shown)
    return difference(drawn) / given if given > 0 else 1.0


def difference(items: Tensor) -> float:
    """The mean absolute difference of every two of `items` (N, ...), in all their numbers."""
    return float((items[:, None] - items[None]).abs().mean())


def concerns(figures: Mapping[str, float]) -> list[str]:
    """In plain words, which figures of a checkpoint say that the generator has collapsed."""
    return [
        f"{name} is {value:.3f}, below {LEAST_VARIETY}: what is drawn is nearly the same whatever is shown (mode "
        "collapse). This seldom mends itself: begin anew with a lower learning rate, or a lower weight of the "
        "adversarial losses"
        for name, value in figures.items()
        if name.endswith("variety") and value < LEAST_VARIETY
    ]
