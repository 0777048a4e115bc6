"""AAMS, Avatar-Net and Style Swap at work: controls, maps, refusals, several styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.export import write_model
from stylemodels.method import Picture, Style
from stylemodels.methods.aams import DEEPEST, METHOD, AvatarNet, StylizeControls, Train
from stylemodels.options import told
from stylemodels.projection import whitened
from stylemodels.schema import InvalidConfig
from stylemodels.strokes import attention_filter
from stylemodels.stylize import load_model
from stylemodels.swap import style_swap
from stylemodels.swap_baseline import StyleSwap
from tests.stylemodels.test_swap import Largest
from tests.stylemodels.toy import fixed_batch, paintings, photos, small_task


@pytest.fixture(scope="module")
def task() -> Train:
    task = small_task("aams/train").eval()
    assert isinstance(task, Train)
    return task


def drawn(task: Train, *styles: Style, content: Tensor | None = None, **controls: Any) -> Picture:
    content = photos(1, 64) if content is None else content
    return task.stylize(content, styles or [Style(paintings(1, 64))], StylizeControls(**controls))


def image_of(picture: Picture) -> Tensor:
    assert picture.image is not None
    return picture.image


def decoder_input(task: Train, **controls: Any) -> Tensor:
    seen: list[Tensor] = []
    handle = task.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    drawn(task, Style(paintings(1, 144)), content=photos(1, 144), **controls)
    handle.remove()
    return seen[0]


def test_what_is_worth_looking_at_comes_with_the_picture(task: Train):
    maps = drawn(task, stroke_pictures=True).maps
    assert list(maps)[:2] == ["attention", "centroids"]
    assert set(maps) == {"attention", "centroids"} | {
        f"{k}_{n}" for k in ("mask", "stroke") for n in [1, 2, 3, "content"]
    }
    assert maps["attention"].shape == (1, 1, 8, 8)
    assert (maps["attention"].min(), maps["attention"].max()) == (0, 1)
    assert maps["centroids"].shape == (1, 1, 1, 4)
    assert (maps["centroids"].diff() >= 0).all()
    assert_close(torch.stack([maps[f"mask_{n}"] for n in (1, 2, 3, "content")]).sum(0), torch.ones(1, 1, 8, 8))
    assert all(map.min() >= 0 and map.max() <= 1 + 1e-6 for map in maps.values())
    assert all(maps[f"stroke_{n}"].shape == (1, 3, 64, 64) for n in (1, 2, 3))


def test_attention_is_that_of_the_whitened_content(task: Train):
    photo = photos(1, 64)
    base = whitened(task.encoded(photo)[DEEPEST], "zca")
    assert_close(drawn(task, content=photo).maps["attention"], attention_filter(task.attention(base)).detach())


def test_fine_strokes_lie_where_the_attention_is_and_the_order_can_be_turned_round(task: Train):
    usual, turned = drawn(task).maps, drawn(task, stroke_order="coarse_on_salient").maps
    peak = usual["attention"].flatten().argmax()
    assert usual["mask_content"].flatten()[peak] == usual["mask_content"].max() > 0.9
    assert torch.equal(usual["mask_content"], turned["mask_3"])
    assert torch.equal(usual["mask_3"], turned["mask_content"])


def test_one_beta_without_the_content_is_a_picture_of_one_stroke(task: Train):
    several = drawn(task, stroke_pictures=True).maps
    for name, beta in (("stroke_3", 0.5), ("stroke_2", 0.7071), ("stroke_1", 1.0)):
        alone = drawn(task, betas=(beta,), include_content=False)
        assert_close(image_of(alone).clamp(0, 1), several[name], rtol=0, atol=1e-5)
        assert alone.maps["mask_1"].unique().tolist() == [1]
    in_another_order = drawn(task, betas=(1.0, 0.5, 0.7071))
    assert torch.equal(image_of(in_another_order), image_of(drawn(task)))


def test_a_given_map_takes_the_attention_s_place(task: Train):
    maps = drawn(task, betas=(0.5,), attention_mask=(0.0, 1.0, 0.0, 1.0)).maps
    assert maps["attention"][0, 0, :, 0].unique().tolist() == [0]
    assert maps["attention"][0, 0, :, -1].unique().tolist() == [1]
    assert (maps["mask_1"][..., 0] > 0.99).all()
    assert (maps["mask_content"][..., -1] > 0.99).all()


def test_check_8_without_attention_and_swap_the_features_have_the_style_s_statistics():
    """Check 8: A = 0 and inter_weight = 0: mean and covariance of the style's relu4_1."""
    task = small_task("aams/train").requires_grad_(False)
    assert isinstance(task, Train)
    task.attention.h_conv.weight.zero_()
    found = decoder_input(task, inter_weight=0.0)
    style = task.encoded(paintings(1, 144))[DEEPEST]
    assert_close(found.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-3)
    wanted = torch.cov(style[0].flatten(1))
    assert (torch.cov(found[0].flatten(1)) - wanted).norm() < 0.01 * wanted.norm()


def test_the_decoder_can_take_over_the_content_s_statistics_instead(task: Train):
    content = photos(1, 64)
    by_style, by_content = (image_of(drawn(task, decoder_reference=whose)) for whose in ("style", "content"))
    assert not torch.allclose(by_style, by_content, atol=0.01)
    own = [image_of(drawn(task, Style(content), decoder_reference=whose)) for whose in ("style", "content")]
    assert_close(*own)


def test_check_10_two_drawings_give_the_same_bits(task: Train):
    state = torch.get_rng_state()
    first, second = drawn(task), drawn(task)
    assert torch.equal(image_of(first), image_of(second))
    assert all(torch.equal(first.maps[name], second.maps[name]) for name in first.maps)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("constant", ["content", "style", "both"])
def test_check_11_pictures_of_one_colour_give_finite_ones(task: Train, constant: str):
    grey = torch.full((1, 3, 64, 64), 0.4)
    content = photos(1, 64) if constant == "style" else grey
    style = paintings(1, 64) if constant == "content" else grey
    picture = drawn(task, Style(style), content=content)
    assert image_of(picture).isfinite().all()
    assert all(map.isfinite().all() for map in picture.maps.values())


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"patch_size": 4}, "patch_size: 4 was given, it must be odd"),
        ({"patch_size": 9}, "patch_size: 9 was given"),
        ({"betas": []}, "betas: none was given"),
        ({"betas": [0.0]}, "betas/0: 0.0 was given"),
        ({"betas": [1.0, 2.5]}, "betas/1: 2.5 was given"),
        ({"inter_weight": 1.5}, "inter_weight: 1.5 was given"),
        ({"inter_weight": -0.1}, "inter_weight: -0.1 was given"),
        ({"theta": -1.0}, "theta: -1.0 was given"),
        ({"attention_mask": [0.5, 0.5]}, "attention_mask: 2 values were given"),
        ({"attention_mask": [2.0]}, "attention_mask/0: 2.0 was given"),
    ],
)
def test_check_11_controls_out_of_range_are_refused_by_name(controls: dict[str, Any], message: str):
    with pytest.raises(InvalidConfig, match=message):
        told(Train, controls)


@pytest.mark.parametrize(("size", "patch_size"), [(16, 5), (24, 7)])
def test_check_11_pictures_without_room_for_a_patch_are_refused(task: Train, size: int, patch_size: int):
    """Check 11: under 24 px for 5 x 5 cells, under 32 px for 7 x 7."""
    with pytest.raises(ValueError, match="too few for patches"):
        drawn(task, content=photos(1, size), patch_size=patch_size)
    assert image_of(drawn(task, content=photos(1, size + 8), patch_size=patch_size)).isfinite().all()


def test_a_large_style_picture_is_used_in_part(task: Train):
    style = paintings(1, 160)
    cut = drawn(task, Style(style), style_short=0, style_crop=64)
    assert torch.equal(image_of(cut), image_of(drawn(task, Style(style[..., 48:112, 48:112]))))


def test_a_picture_never_holds_the_whole_attention_map(task: Train):
    """512 px are 4,096 positions, their map 16.8 million numbers."""
    with Largest() as largest:
        drawn(task, content=photos(1, 512), betas=(1.0,), projection="adain")
    assert largest.numbers <= 1024 * 4096


# --- several styles, and the other tasks -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aams/train", "aams/avatar-net", "aams/style-swap"])
def test_a_style_twice_is_the_style_and_masks_keep_styles_apart(name: str):
    model = small_task(name).eval()
    content, style, other = photos(1, 64), paintings(1, 64), paintings(1, 64, seed=3)
    once = image_of(model.stylize(content, [Style(style)], model.Controls()))
    twice = image_of(model.stylize(content, [Style(style, 0.5), Style(style, 0.5)], model.Controls()))
    assert_close(twice, once, rtol=0, atol=1e-5)
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    pair = [Style(style, 0.5, mask=left), Style(other, 0.5, mask=1 - left)]
    masked = image_of(model.stylize(content, pair, model.Controls()))
    away = image_of(model.stylize(content, [Style(other)], model.Controls()))
    # Not the same to the last digit: AdaIN takes its statistics over the whole picture.
    assert (masked - once)[..., :8].abs().mean() < 0.4 * (masked - once)[..., -8:].abs().mean()
    assert (masked - away)[..., -8:].abs().mean() < 0.4 * (masked - away)[..., :8].abs().mean()


def test_avatar_net_is_one_stroke_without_attention():
    """With h_conv zero nothing is attended, so its picture is that of the finest stroke."""
    full, plain = small_task("aams/train").requires_grad_(False), small_task("aams/avatar-net")
    assert isinstance(full, Train)
    assert isinstance(plain, AvatarNet)
    full.attention.h_conv.weight.zero_()
    plain.decoder.load_state_dict(full.decoder.state_dict())
    expected = image_of(drawn(full, betas=(1.0,), include_content=False))
    found = image_of(plain.stylize(photos(1, 64), [Style(paintings(1, 64))], plain.Controls()))
    assert torch.equal(found, expected)


def test_style_swap_paints_the_swapped_features():
    task = small_task("aams/style-swap").requires_grad_(False)
    assert isinstance(task, StyleSwap)
    photo = photos(1, 64)
    own = image_of(task.stylize(photo, [Style(photo)], task.Controls()))
    back = task.decoder(task.encoded(photo))
    inside = (..., slice(24, -24), slice(24, -24))
    assert_close(own[inside], back[inside], rtol=0, atol=1e-4)
    painting = paintings(1, 64)
    swapped = style_swap(task.encoded(photo), task.encoded(painting), patch_size=5)
    found = image_of(task.stylize(photo, [Style(painting)], task.Controls(patch_size=5)))
    assert_close(found, task.decoder(swapped), rtol=0, atol=1e-5)


def test_progress_is_told_after_every_style(tmp_path: Path):
    write_model(tmp_path, small_task("aams/train"), METHOD, "train")
    shares: list[float] = []
    load_model(tmp_path).stylize(photos(1, 48), [Style(paintings(1, 48))] * 3, report=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_the_sample_sheet_is_the_published_row(task: Train):
    """Strokes of size 1, 2, 3, content and style, the attention map, and all strokes together."""
    names = ["stroke-1", "stroke-2", "stroke-3", "content", "style", "attention", "result"]
    batch = fixed_batch(task)
    sheet = task.preview(batch)
    assert [name for name, _ in sheet] == [f"{name}-{n}" for n in (1, 2) for name in names]
    assert all(picture.shape == (3, 32, 32) for _, picture in sheet)
    shown = dict(sheet)
    assert torch.equal(shown["style-1"], shown["content-2"])
    first, second = batch["content"][:1], batch["content"][1:2]
    picture = task.stylize(first, [Style(second)], StylizeControls(stroke_pictures=True))
    assert_close(shown["result-1"][None], image_of(picture))
    assert_close(shown["stroke-3-1"][None], picture.maps["stroke_3"])


def test_the_other_reconstruction_shows_photos_given_back():
    task = small_task("aams/avatar-net", batch_size=5)
    assert task.preview_streams()["content"].count == 3
    pair = photos(2, 32)
    sheet = task.preview({"content": pair})
    assert [name for name, _ in sheet] == [
        f"{name}-{n}" for n in (1, 2) for name in ("content", "style", "back", "result")
    ]
    result = image_of(task.stylize(pair[:1], [Style(pair[1:])], task.Controls()))
    assert_close(dict(sheet)["result-1"][None], result)
