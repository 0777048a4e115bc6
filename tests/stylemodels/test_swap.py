"""Style swap against patches cut out one by one and compared in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad, unfold
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from stylemodels.swap import coverage, matches, resized, style_swap, swapped_part


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest new tensor had."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.numbers = max(self.numbers, result.numel())
        return result


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patches(features: Tensor, size: int, mode: str) -> np.ndarray:
    """(C, H, W) -> (H * W, C * size * size), float64."""
    around = pad(features[None].double(), (size // 2,) * 4, mode=mode)
    return unfold(around, size)[0].T.numpy()


def by_loops(content: Tensor, style: Tensor, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The chosen cells (H * W,) and the result (C, H, W), patch by patch."""
    (channels, height, width), radius = content.shape, size // 2
    wanted, offered = patches(content, size, "reflect"), patches(style, size, "constant")
    lengths = np.array([np.sqrt((patch**2).sum()) for patch in offered])
    chosen = np.array([np.argmax([p @ o / n for o, n in zip(offered, lengths, strict=True)]) for p in wanted])
    total = np.zeros((channels, height + 2 * radius, width + 2 * radius))
    count = np.zeros(total.shape[1:])
    for position, cell in enumerate(chosen):
        y, x = divmod(position, width)
        total[:, y : y + size, x : x + size] += offered[cell].reshape(channels, size, size)
        count[y : y + size, x : x + size] += 1
    inside = slice(radius, radius + height), slice(radius, radius + width)
    return chosen, total[:, *inside] / count[inside]


@pytest.mark.parametrize("size", [3, 5, 7])
def test_check_6_the_fast_swap_is_the_one_by_loops(size: int):
    """Check 6: identical choices, outputs within 1e-5."""
    content, style = noise(8, 12, 10), noise(8, 9, 11, seed=1)
    chosen, expected = by_loops(content, style, size)
    assert np.array_equal(matches(content, style, size, 32).flatten().numpy(), chosen)
    found = style_swap(content[None], style[None], patch_size=size)
    assert_close(found[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 100])
def test_check_6_the_result_does_not_depend_on_the_bands(rows: int):
    content, style = noise(1, 8, 12, 10), noise(1, 8, 9, 11, seed=1)
    expected = style_swap(content, style, patch_size=5, band_rows=12)
    assert_close(style_swap(content, style, patch_size=5, band_rows=rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("most", [100_000, 40_000])
def test_bands_bound_what_is_held_at_once_and_are_narrowed_where_memory_asks_for_it(
    most: int, monkeypatch: pytest.MonkeyPatch
):
    """The smaller bound has no room for a whole row of content and what lies around it."""
    monkeypatch.setattr("stylemodels.swap.BAND_NUMBERS", most)
    content, style = noise(1, 4, 48, 20), noise(1, 4, 20, 20, seed=1)
    with Largest() as largest:
        found = style_swap(content, style, patch_size=5, band_rows=48)
    assert largest.numbers <= most
    monkeypatch.undo()
    with Largest() as largest:
        style_swap(content, style, patch_size=5, band_rows=48)
    assert largest.numbers == (48 + 4) * 24 * 24 * 24
    assert_close(found, style_swap(content, style, patch_size=5), rtol=0, atol=1e-5)


def test_pairs_are_swapped_each_with_its_own_style():
    content, style = noise(2, 8, 7, 6), noise(2, 8, 5, 6, seed=1)
    both = style_swap(content, style, patch_size=3)
    alone = [style_swap(content[n : n + 1], style[n : n + 1], patch_size=3) for n in range(2)]
    assert torch.equal(both, torch.cat(alone))


def test_check_7_a_map_in_its_own_style_comes_back_inside():
    """Check 7: on cells from 4 away from the border, where content is not reflected and style is not zero."""
    features = noise(1, 16, 14, 13)
    found = style_swap(features, features, patch_size=5)
    assert_close(found[..., 4:-4, 4:-4], features[..., 4:-4, 4:-4], rtol=0, atol=1e-5)


def test_check_7_every_cell_is_a_mean_of_style_cells_or_of_the_zeros_around():
    content, style = noise(1, 16, 14, 13), noise(1, 16, 9, 9, seed=1) - 3
    found = style_swap(content, style, patch_size=5)
    highest, lowest = (style.flatten(2).max(2).values, style.flatten(2).min(2).values)
    assert (found.flatten(2).max(2).values <= highest.clamp_min(0) + 1e-5).all()
    assert (found.flatten(2).min(2).values >= lowest.clamp_max(0) - 1e-5).all()


def test_check_7_patches_cover_a_cell_as_often_as_they_reach_it():
    """Check 7: 25 inside, 9 in the corner."""
    counts = coverage(6, 8, 5)
    assert counts[2:-2, 2:-2].unique().tolist() == [25]
    assert [counts[0, 0], counts[0, -1], counts[-1, 0], counts[0, 3]] == [9, 9, 9, 15]
    assert coverage(2, 2, 3).unique().tolist() == [4]


def test_the_length_of_the_content_does_not_matter_but_the_direction_does():
    content, style = noise(1, 8, 7, 6), noise(1, 8, 5, 6, seed=1)
    louder = style_swap(4 * content, style, patch_size=3)
    assert_close(louder, style_swap(content, style, patch_size=3), rtol=0, atol=1e-6)


def test_under_autocast_the_choice_is_made_in_float32():
    content, style = noise(1, 8, 7, 6), noise(1, 8, 5, 6, seed=1)
    expected = style_swap(content, style, patch_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(style_swap(content, style, patch_size=3), expected)


@pytest.mark.parametrize(
    ("size", "sides", "message"),
    [
        (4, (8, 8), "patch_size: 4 was given, it must be odd"),
        (0, (8, 8), "patch_size: 0"),
        (5, (2, 8), "2 x 8 cells, too few for patches of 5 x 5"),
        (7, (8, 3), "too few for patches of 7 x 7"),
    ],
)
def test_check_11_even_patches_and_pictures_without_room_for_reflection_are_refused(
    size: int, sides: tuple[int, int], message: str
):
    with pytest.raises(ValueError, match=message):
        style_swap(noise(1, 4, *sides), noise(1, 4, 6, 6), patch_size=size)


@pytest.mark.parametrize("constant", ["content", "style", "both"])
def test_check_11_constant_features_give_finite_ones(constant: str):
    content, style = noise(1, 4, 8, 8), noise(1, 4, 6, 6)
    if constant != "style":
        content = torch.zeros_like(content)
    if constant != "content":
        style = torch.zeros_like(style)
    assert style_swap(content, style, patch_size=5).isfinite().all()


def test_a_style_is_resized_by_beta_rounded_down_and_never_to_nothing():
    style = noise(1, 3, 9, 7)
    assert torch.equal(resized(style, 1.0), style)
    assert resized(style, 0.5).shape == (1, 3, 4, 3)
    assert resized(style, 2.0).shape == (1, 3, 18, 14)
    assert resized(style, 0.01).shape == (1, 3, 1, 1)
    even = noise(1, 3, 8, 6)
    means = even.unflatten(3, (3, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert_close(resized(even, 0.5), means, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sides", "shorter", "crop", "expected"),
    [
        ((600, 900), 300, 224, (224, 224)),
        ((600, 900), 300, 0, (300, 450)),
        ((600, 900), 0, 448, (448, 448)),
        ((100, 500), 300, 448, (100, 448)),
        ((100, 90), 0, 0, (100, 90)),
    ],
)
def test_of_a_style_picture_the_middle_is_taken_scaled_down_but_never_up(
    sides: tuple[int, int], shorter: int, crop: int, expected: tuple[int, int]
):
    assert swapped_part(torch.zeros(1, 3, *sides), shorter, crop).shape[2:] == expected
    marked = torch.arange(8.0).expand(1, 3, 8, 8)
    assert swapped_part(marked, 0, 4)[0, 0, 0].tolist() == [2, 3, 4, 5]
