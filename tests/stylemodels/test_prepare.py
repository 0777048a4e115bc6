"""What is done to pictures before a task sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.testing import assert_close

from stylemodels import prepare
from stylemodels.method import Regions, Style, Task
from stylemodels.options import Options
from stylemodels.prepare import (
    Size,
    drawn_size,
    nearest,
    normalised,
    padded,
    padded_size,
    prepared_styles,
    reflected,
    share_out,
    tile_of,
)
from tests.stylemodels.toy import paintings
from tests.stylemodels.toy_drawing import Blend, Invert


def test_padding_is_torchs_reflection_where_that_can():
    image = torch.rand(1, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(padded(image, Size(32, 48)), pad(image, (0, 18, 0, 11), mode="reflect"))
    assert padded(image, Size(21, 30)) is image


@pytest.mark.parametrize(("side", "length"), [(1, 5), (2, 9), (3, 32), (5, 5), (16, 31), (17, 64)])
def test_padding_goes_to_and_fro_as_often_as_it_takes(side: int, length: int):
    expected = np.pad(np.arange(side), (0, length - side), mode="reflect")
    assert reflected(side, length).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("given", "expected"), [((16, 16), (32, 32)), ((17, 2000), (32, 2000)), ((64, 33), (64, 48)), ((32, 32), (32, 32))]
)
def test_a_canvas_has_multiples_of_the_tasks_two_at_least(given: tuple[int, int], expected: tuple[int, int]):
    assert padded_size(Blend, Size(*given)) == expected
    freely = type("Freely", (Blend,), {"multiple": 1})
    assert padded_size(freely, Size(*given)) == (max(given[0], 32), max(given[1], 32)), "two positions in relu5_1"


def test_a_content_is_drawn_at_the_size_that_was_asked_for():
    assert drawn_size(Size(300, 400), Options()) == (300, 400)
    assert drawn_size(Size(300, 400), Options(size=150)) == (150, 200)
    assert drawn_size(Size(4, 8), Options(size=32)) == (32, 64)
    with pytest.raises(ValueError, match="size: a picture of 8 x 8 px was asked for, sides must be at least 16 px"):
        drawn_size(Size(64, 64), Options(size=8))
    with pytest.raises(ValueError, match="content: a picture of 64 x 15 px"):
        drawn_size(Size(15, 64), Options())


def styles_for(styles: list[Style], *, given: Size, options: Options | None = None) -> list[Style]:
    options = options or Options()
    drawn = drawn_size(given, options)
    return prepared_styles(Blend(), styles, options, given=given, drawn=drawn, colours=None)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (20, 7), (31, 33)])
def test_a_tiny_style_is_continued_to_the_smallest_usable_size_with_its_colours(size: tuple[int, int]):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    (style,) = styles_for([Style(image)], given=Size(64, 64))
    assert style.image.shape[-2:] == (max(size[0], 32), max(size[1], 32))
    assert torch.equal(style.image[..., : size[0], : size[1]], image)
    assert {*style.image.flatten().tolist()} == {*image.flatten().tolist()}


def test_a_style_picture_is_scaled_only_if_that_is_asked_for():
    image = paintings(1, 50)
    assert styles_for([Style(image)], given=Size(64, 64))[0].image.shape == (1, 3, 50, 50), (
        "and never padded to a multiple"
    )
    wide = torch.cat([image, image], dim=3)
    assert styles_for([Style(wide)], given=Size(64, 64), options=Options(style_size=75))[0].image.shape[-2:] == (
        75,
        150,
    )


def test_weights_sum_to_one():
    styles = styles_for([Style(paintings(1, 32), weight) for weight in (1.0, 3.0, 0.0)], given=Size(32, 32))
    assert [style.weight for style in styles] == [0.25, 0.75, 0.0]
    assert all(style.mask is None for style in styles)


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_cannot_sum_to_one_are_refused(weights: list[float]):
    with pytest.raises(ValueError, match="weights"):
        normalised(weights)


def shares_at(weights: list[float], masks: list[float | None]) -> list[float]:
    """By the words of `share_out`, for one pixel."""
    left = max(0.0, 1 - sum(mask for mask in masks if mask is not None))
    parts = [weight * (left if mask is None else mask) for weight, mask in zip(weights, masks, strict=True)]
    return [part / sum(parts) for part in parts] if sum(parts) else weights


def test_where_any_style_has_a_mask_all_get_one_that_sums_to_one_with_the_weights_in_it():
    random = torch.Generator().manual_seed(0)
    weights = [0.5, 0.2, 0.3]
    masks = torch.rand(2, 1, 1, 5, 6, generator=random)
    masks[:, ..., 0, :] = 0
    masks[0, ..., 1, :], masks[1, ..., 1, :] = 1, 0
    for given in ([masks[0], masks[1], None], [masks[0], masks[1]], [masks[0], None]):
        used = [weight / sum(weights[: len(given)]) for weight in weights[: len(given)]]
        styles = share_out([Style(paintings(1, 32), w, m) for w, m in zip(used, given, strict=True)])
        total = torch.zeros(1, 1, 5, 6)
        for style in styles:
            assert style.mask is not None
            total += style.mask
        assert_close(total, torch.ones_like(total))
        for y in range(5):
            for x in range(6):
                at = [None if mask is None else mask[0, 0, y, x].item() for mask in given]
                found = [style.mask[0, 0, y, x].item() for style in styles if style.mask is not None]
                assert found == pytest.approx(shares_at(used, at), abs=1e-6)


def test_where_no_mask_covers_all_styles_have_their_weight():
    masks = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)]
    styles = share_out([Style(paintings(1, 32), w, m) for w, m in zip((0.25, 0.75), masks, strict=True)])
    assert [style.mask.unique().tolist() for style in styles if style.mask is not None] == [[0.25], [0.75]]


def test_masks_are_scaled_and_padded_along_with_the_content():
    mask = (torch.arange(40) < 20).float().expand(1, 1, 60, 40)
    first, second = styles_for([Style(paintings(1, 32), mask=mask), Style(paintings(1, 32))], given=Size(60, 40))
    assert first.mask is not None
    assert second.mask is not None
    assert torch.equal(first.mask, padded(mask, Size(64, 48)))
    assert torch.equal(second.mask, 1 - first.mask)
    half = styles_for(
        [Style(paintings(1, 32), mask=mask), Style(paintings(1, 32))], given=Size(60, 40), options=Options(size=20)
    )[0].mask
    assert half is not None
    assert half.shape[-2:] == (32, 32)
    assert half[0, 0, 0, 2] == 1
    assert half[0, 0, 0, 17] == 0


def test_label_maps_are_scaled_to_the_nearest_label_and_padded_along():
    content = torch.tensor([[0, 7], [3, 9]]).repeat_interleave(20, 0).repeat_interleave(20, 1)[None, None]
    style = torch.arange(100).view(1, 1, 10, 10)
    given = Style(paintings(1, 10), regions=Regions(content, style))
    regions = styles_for([given], given=Size(40, 40), options=Options(size=20))[0].regions
    assert regions is not None
    assert regions.content.dtype == torch.int64
    small = torch.tensor([[0, 7], [3, 9]]).repeat_interleave(10, 0).repeat_interleave(10, 1)[None, None]
    assert torch.equal(regions.content, padded(small, Size(32, 32)))
    assert torch.equal(regions.style, padded(style, Size(32, 32))), "as the tiny style itself"


def test_a_scaled_label_map_has_the_label_under_each_pixels_middle():
    labels = torch.arange(7).view(1, 1, 1, 7)
    assert nearest(labels, Size(1, 3))[0, 0, 0].tolist() == [1, 3, 5]
    assert nearest(labels, Size(2, 14))[0, 0, 1].tolist() == [n // 2 for n in range(14)]


NO_MASKS = type("NoMasks", (Blend,), {"masks": False, "regions": False})
LABELS = torch.zeros(1, 1, 32, 32, dtype=torch.int64)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (
            Blend,
            {"image": torch.rand(3, 32, 32)},
            r"style 2: a picture has the shape \(1, 3, H, W\), not \(3, 32, 32\)",
        ),
        (Blend, {"image": torch.rand(1, 3, 0, 32)}, "style 2: a picture has the shape"),
        (Blend, {"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "style 2: .* not torch.uint8"),
        (Blend, {"image": torch.full((1, 3, 32, 32), float("nan"))}, "style 2: .* not numbers"),
        (
            Blend,
            {"mask": torch.zeros(1, 1, 16, 32)},
            r"style 2: mask: shape \(1, 1, 16, 32\) was given, over the content",
        ),
        (Blend, {"mask": torch.full((1, 1, 32, 32), 1.5)}, "style 2: mask: values must be numbers from 0 to 1"),
        (Blend, {"mask": torch.full((1, 1, 32, 32), float("nan"))}, "style 2: mask: values must be numbers"),
        (NO_MASKS, {"mask": torch.zeros(1, 1, 32, 32)}, "style 2: mask: one was given, but this model takes none"),
        (Blend, {"regions": Regions(LABELS[..., :9], LABELS)}, "style 2: regions: .* over the content it is"),
        (Blend, {"regions": Regions(LABELS, LABELS[..., :9])}, "style 2: regions: .* over the style it is"),
        (Blend, {"regions": Regions(LABELS, LABELS.float())}, "style 2: regions: labels are int64, not torch.float32"),
        (NO_MASKS, {"regions": Regions(LABELS, LABELS)}, "style 2: regions: label maps were given"),
    ],
)
def test_a_style_that_cannot_be_used_is_refused_by_its_number(
    task: type[Task], change: dict[str, Tensor], message: str
):
    good = Style(paintings(1, 32))
    with pytest.raises(ValueError, match=message):
        prepared_styles(
            task(), [good, replace(good, **change)], Options(), given=Size(32, 32), drawn=Size(32, 32), colours=None
        )


def test_the_number_of_styles_is_the_models():
    with pytest.raises(ValueError, match="styles: 5 pictures were given, this model takes 1 to 4"):
        styles_for([Style(paintings(1, 32))] * 5, given=Size(32, 32))
    with pytest.raises(ValueError, match="styles: 0 pictures were given"):
        styles_for([], given=Size(32, 32))


def test_large_pictures_are_drawn_in_tiles_where_the_method_can_and_else_while_they_fit(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(prepare, "whole_limit_px", lambda task_class: 30_000_000)
    assert tile_of(Invert(), Options(), Size(4096, 4096)) == 0
    assert tile_of(Invert(), Options(), Size(4096, 4097)) == 1024
    assert tile_of(Invert(), Options(tile=512), Size(64, 64)) == 512
    assert tile_of(Blend(), Options(), Size(4096, 4097)) == 0
    with pytest.raises(ValueError, match=r"content: 6000 x 6000 px would be drawn, .* about 30 million pixels fit"):
        tile_of(Blend(), Options(), Size(6000, 6000))


def test_the_limit_of_whole_drawings_is_that_of_the_machine_or_its_container(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(prepare, "CGROUP_LIMIT", tmp_path / "memory.max")
    machine = prepare.whole_limit_px(Blend)
    assert machine > 100_000
    (tmp_path / "memory.max").write_text("max\n")
    assert prepare.whole_limit_px(Blend) == machine
    (tmp_path / "memory.max").write_text("104857600\n")
    assert prepare.whole_limit_px(Blend) == 81_920
