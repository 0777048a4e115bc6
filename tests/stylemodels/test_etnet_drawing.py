"""ETNet at work: checks 2, 11 and 12, refinement of other pictures, what errors are for, and what previews show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.attention import attention_map
from stylemodels.error_encoder import TAPS, coarser, position_gram, signed, unsigned
from stylemodels.error_transition import CrossAttention
from stylemodels.export import write_model
from stylemodels.method import Picture, Style
from stylemodels.methods.etnet import METHOD, SHOWN, StylizeControls, Train
from stylemodels.stylize import Model, load_model
from stylemodels.train import Run
from tests.stylemodels.toy import advance, batch_of, fixed_batch, paintings, photos, small_run, small_task

NAME = "etnet/train"
WHOLE: dict[str, Any] = {"levels": [3, 2, 1], "content_size": 64, "style_size": 64}


@pytest.fixture(scope="module")
def run() -> Run:
    """All three levels, after a step each."""
    run = small_run(NAME, steps=1, **WHOLE)
    advance(run, 3)
    return run


@pytest.fixture(scope="module")
def model(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same, written and loaded."""
    folder = tmp_path_factory.mktemp("etnet")
    write_model(folder, run.task, METHOD, "train")
    return load_model(folder)


@pytest.fixture
def task(model: Model) -> Train:
    assert isinstance(model.task, Train)
    model.task.init_image = None
    return model.task


def drawn(task: Train, *styles: Style, content: Tensor | None = None, **controls: Any) -> Picture:
    content = photos(1, 64) if content is None else content
    return task.stylize(content, styles or [Style(paintings(1, 64))], StylizeControls(**controls))


def image_of(task: Train, *styles: Style, **controls: Any) -> Tensor:
    image = drawn(task, *styles, **controls).image
    assert image is not None
    return image


# --- 2 ---------------------------------------------------------------------------------------------------------------


def test_check_2_levels_draw_at_a_quarter_at_half_and_at_full_size_and_attend_to_an_eighth_of_it(task: Train):
    rows: dict[int, float] = {}  # positions -> how far the worst row's sum is from 1

    def watch(block: CrossAttention, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        source, target = inputs
        weights = attention_map(block.f(source).double(), block.g(target).double())
        rows[weights.shape[1]] = float((weights.sum(-1) - 1).abs().max())

    hooks = [m.register_forward_hook(watch) for m in task.modules() if isinstance(m, CrossAttention)]
    maps = drawn(task, content=photos(1, 256)).maps
    for hook in hooks:
        hook.remove()
    assert [maps[f"level{k}_out"].shape[-2:] for k in (3, 2, 1)] == [(64, 64), (128, 128), (256, 256)]
    assert list(rows) == [64, 256, 1024]
    assert max(rows.values()) < 1e-6


@pytest.mark.parametrize(("content", "style"), [((64, 96), (90, 70)), ((96, 64), (64, 131))])
def test_check_2_a_style_has_any_other_size(task: Train, content: tuple[int, int], style: tuple[int, int]):
    photo, painting = photos(1, 96)[..., : content[0], : content[1]], paintings(1, 131)[..., : style[0], : style[1]]
    image = image_of(task, Style(painting), content=photo)
    assert image.shape == photo.shape
    assert 0 < image.min() <= image.max() < 1, "tanh sees to that"


def test_check_2_sizes_that_do_not_fit_are_refused_in_words(task: Train):
    for side, reason in ((72, "content: 72 x 72 px .* multiples of 32"), (32, "content: 32 x 32 px .* at least 64")):
        with pytest.raises(ValueError, match=reason):
            drawn(task, content=photos(1, side))
    with pytest.raises(ValueError, match=r"style 2: 48 x 64 px .* at least 64"):
        drawn(task, Style(paintings(1, 64)), Style(paintings(1, 64)[..., :48]))


# --- 11, 12 ----------------------------------------------------------------------------------------------------------


def test_check_11_a_blank_start_gives_the_same_bits_again_and_noise_those_of_its_seed(task: Train):
    assert torch.equal(image_of(task), image_of(task))
    first, again, other = (image_of(task, init="noise", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, image_of(task))


def test_a_model_that_was_trained_from_noise_starts_from_noise(task: Train):
    noisy = small_task(NAME, init="noise", **WHOLE)
    noisy.load_model_tensors(task.model_tensors())
    assert isinstance(noisy, Train)
    assert torch.equal(image_of(noisy), image_of(task, init="noise"))
    assert torch.equal(image_of(noisy, init="zeros"), image_of(task))


def test_check_12_what_cannot_be_drawn_is_named(model: Model):
    content, style = photos(1, 64), paintings(1, 64)
    broken = content.clone()
    broken[0, 1, 5, 6] = float("nan")
    for picture, styles, reason in (
        (content[:, :1], [Style(style)], r"content: .*\(1, 1, 64, 64\)"),
        (torch.cat([content, content[:, :1]], 1), [Style(style)], r"content: .*\(1, 4, 64, 64\)"),
        (content[..., :15], [Style(style)], "content: .* at least 16 px"),
        (broken, [Style(style)], "content: .* not numbers"),
        (content, [Style(broken)], "style 1: .* not numbers"),
        (content, [], "styles: 0 pictures were given"),
        (content, [Style(style, mask=torch.ones(1, 1, 64, 64))], "style 1: mask: .* takes none"),
    ):
        with pytest.raises(ValueError, match=reason):
            model.stylize(picture, styles)


def test_a_finished_model_pads_what_it_is_given(model: Model, task: Train):
    content, style = photos(1, 64), paintings(1, 64)
    assert torch.equal(model.stylize(content, [Style(style)]), image_of(task))
    for height, width in ((64, 75), (17, 40)):
        result = model.stylize(content[..., :height, :width], [Style(style[..., :30, :20])])
        assert result.shape == content[..., :height, :width].shape
        assert result.isfinite().all()


# --- controls --------------------------------------------------------------------------------------------------------


def test_alpha_is_the_strength_and_blends_from_the_content(model: Model, task: Train):
    content, full = photos(1, 64), image_of(task)
    assert torch.equal(image_of(task, alpha=0.0), content)
    half = image_of(task, alpha=0.5)
    assert_close(half, (content + full) / 2)
    assert torch.equal(model.stylize(content, [Style(paintings(1, 64))], {"strength": 0.5}), half)


def test_styles_are_mixed_by_their_gram_matrices_before_the_root(task: Train):
    first, second = paintings(2, 64).split(1)
    alone = image_of(task, Style(first))
    assert_close(image_of(task, Style(first, 0.5), Style(first, 0.5)), alone)
    assert torch.equal(image_of(task, Style(first, 1.0), Style(second, 0.0)), alone)
    assert not torch.allclose(image_of(task, Style(first, 0.5), Style(second, 0.5)), alone, atol=1e-5)


def test_without_errors_the_networks_add_what_they_would_to_a_flawless_picture(task: Train):
    told, untold = drawn(task), drawn(task, errors=False)
    assert not torch.equal(told.maps["level3_residual"], untold.maps["level3_residual"])
    assert torch.equal(told.maps["level3_style_error"], untold.maps["level3_style_error"]), "the true one is shown"
    flat = torch.zeros(1, 3, 16, 16)
    network, features = task.levels["level3"], task.measure.seen(flat)
    itself = task.measure.errors(features, task.measure.target(flat, [Style(flat)]))
    assert_close(untold.maps["level3_out"], unsigned(torch.tanh(network(features, [itself]))))


def test_a_coarser_level_as_the_last_one_is_drawn_larger(task: Train):
    whole, half = drawn(task), drawn(task, output_level=2)
    assert half.image is not None
    assert torch.equal(coarser(half.image), whole.maps["level2_out"])
    assert half.image.shape == (1, 3, 64, 64)
    assert {name.partition("_")[0] for name in half.maps} == {"level3", "level2"}


def test_a_pyramid_of_two_draws_at_half_and_at_full_size():
    task = small_task(NAME)
    maps = task.stylize(photos(1, 48), [Style(paintings(1, 40))], StylizeControls()).maps
    assert [maps[f"level{k}_out"].shape[-1] for k in (3, 2)] == [24, 48]


# --- a picture to start from -----------------------------------------------------------------------------------------


def test_a_mid_grey_picture_at_the_coarsest_level_is_the_blank_start(task: Train):
    blank = image_of(task)
    task.init_image = torch.full((1, 3, 64, 64), 0.5)
    assert torch.equal(image_of(task), blank)


@pytest.mark.parametrize("level", [3, 2, 1])
def test_a_picture_to_start_from_enters_at_the_level_asked_for(task: Train, level: int):
    task.init_image = photos(1, 64, seed=5)
    maps = drawn(task, start_level=level).maps
    assert {name.partition("_")[0] for name in maps} == {
        "content",
        "style",
        *(f"level{k}" for k in range(level, 0, -1)),
    }
    assert_close(maps[f"level{level}_start"], coarser(task.init_image, level - 1))


def test_a_finished_model_refines_another_method_s_picture_of_any_size(model: Model, task: Train):
    content, other, style = photos(1, 64), photos(1, 64, seed=5), [Style(paintings(1, 64))]
    refined = model.stylize(content, style, {"start_level": 2}, init_image=other)
    assert task.init_image is None, "for one drawing only"
    task.init_image = other
    assert torch.equal(refined, image_of(task, start_level=2))
    picture = model.picture(content[..., :40], style, {"start_level": 1}, init_image=other[..., :40])
    assert picture.image is not None
    assert picture.image.shape == (1, 3, 64, 40)
    assert picture.maps["level1_start"].shape == (1, 3, 64, 40), "maps are without the padding too"


def test_a_level_s_coarser_errors_are_those_of_the_picture_that_enters(task: Train):
    """At level 1 those of d(x) and d(d(x)), of which the last two levels' outputs are a special case."""
    content, style = signed(photos(1, 64)), signed(paintings(1, 64))
    task.init_image = photos(1, 64, seed=5)
    start = signed(task.init_image)
    errors = []
    for k in (3, 2, 1):
        own, its, theirs = (
            task.measure.seen(image[..., :: 2 ** (k - 1), :: 2 ** (k - 1)]) for image in (start, content, style)
        )
        errors.append(
            task.measure.errors(own, task.measure.target(coarser(content, k - 1), [Style(coarser(style, k - 1))]))
        )
        assert_close(errors[-1].content, own["relu4_1"] - its["relu4_1"])
        assert_close(
            errors[-1].style["relu4_1"], position_gram(own["relu4_1"]).sqrt() - position_gram(theirs["relu4_1"]).sqrt()
        )
    residual = task.levels["level1"](task.measure.seen(start, TAPS), errors)
    assert_close(image_of(task, start_level=1), unsigned(torch.tanh(residual + start)))


def test_a_refinement_tells_both_losses_before_and_after(task: Train):
    """Equations 7 and 8 with the finest level's weights: relu4_1 at all scales, the other taps at its own."""
    content, style = signed(photos(1, 64)), signed(paintings(1, 64))
    task.init_image = photos(1, 64, seed=5)
    maps = drawn(task, start_level=2).maps
    for place, picture in enumerate((signed(task.init_image), signed(image_of(task, start_level=2)))):
        content_loss, style_loss = torch.zeros(()), torch.zeros(())
        for step in (1, 2, 4):
            taps = TAPS if step == 1 else ("relu4_1",)
            own, its, theirs = (
                task.measure.seen(image[..., ::step, ::step], TAPS) for image in (picture, content, style)
            )
            content_loss = content_loss + (own["relu4_1"] - its["relu4_1"]).square().mean()
            for tap in taps:
                style_loss = style_loss + (position_gram(own[tap]) - position_gram(theirs[tap])).square().mean()
        assert_close(maps["content_loss"][place], content_loss)
        assert_close(maps["style_loss"][place], 8 * style_loss)
    task.init_image = None
    assert "content_loss" not in drawn(task).maps, "nothing was refined"


def test_levels_between_which_there_is_no_way_are_refused(task: Train):
    with pytest.raises(ValueError, match="start_level: 2 was given without a picture"):
        drawn(task, start_level=2)
    task.init_image = photos(1, 64)
    with pytest.raises(ValueError, match="start_level: 1 was given, which is finer than the last level to draw, 2"):
        drawn(task, start_level=1, output_level=2)
    two = small_task(NAME)
    two.init_image = photos(1, 32)
    with pytest.raises(ValueError, match="start_level: 1 was given, this model has 3, 2"):
        two.stylize(photos(1, 32), [Style(paintings(1, 32))], StylizeControls(start_level=1))


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_maps_are_pictures_of_every_level(task: Train):
    maps = drawn(task).maps
    assert list(maps) == [f"level{k}_{part}" for k in (3, 2, 1) for part in SHOWN]
    for name, shown in maps.items():
        side = {"3": 16, "2": 32, "1": 64}[name[5]] // (8 if name.endswith("error") else 1)
        assert shown.shape == (1, 3, side, side), name
        assert 0 <= shown.min() <= shown.max() <= 1, name
    for coarse, fine in ((3, 2), (2, 1)):
        assert_close(maps[f"level{fine}_start"][..., ::2, ::2], maps[f"level{coarse}_out"])


def test_a_preview_has_a_row_for_each_level_beside_the_same_without_errors(run: Run):
    task = run.task
    assert isinstance(task, Train)
    batch = batch_of(task.preview_streams())
    grid = dict(run.preview(batch))
    assert list(grid) == [
        f"{kind}-{n}" for n in (1, 2) for kind in ("content", "style", f"result-{n}", f"transition-{n}")
    ]
    sheet = grid["transition-1-1"]
    assert sheet.shape == (3, 3 * 64, 2 * len(SHOWN) * 64)

    def cell(row: int, column: int) -> Tensor:
        return sheet[:, 64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]

    pair = batch["content"][:1], Style(batch["style"][:1])
    told, untold = (drawn(task, pair[1], content=pair[0], errors=errors).maps for errors in (True, False))
    for row, level in enumerate((3, 2, 1)):
        for column, part in enumerate(SHOWN):
            for half, maps in enumerate((told, untold)):
                shown = maps[f"level{level}_{part}"][0]
                factor = 64 // shown.shape[-1]
                enlarged = shown.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
                assert_close(cell(row, column + half * len(SHOWN)), enlarged)
    assert torch.equal(grid["result-1-1"], cell(2, 4))


def test_a_preview_in_the_middle_of_the_training_has_only_the_levels_that_learn_by_then():
    run = small_run(NAME, steps=2)
    for finished, rows in ((1, 1), (3, 2)):
        advance(run, finished - run.step)
        grid = dict(run.preview(batch_of(run.task.preview_streams())))
        assert grid["transition-2-2"].shape == (3, rows * 32, 2 * len(SHOWN) * 32)
        assert grid["result-2-2"].shape == (3, 32, 32)


# --- refinement ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_refinement_at_the_finer_levels_brings_another_picture_nearer_to_the_style():
    """Of a pair that the levels have learnt; at level 3 so short a training makes other pictures worse."""
    run = small_run(NAME, encoder="small-narrow", steps=150, batch_size=1, start_std=0.001, **WHOLE)
    batch = fixed_batch(run.task)
    for _ in range(run.total_steps):
        run.advance(batch)
    task = run.task
    assert isinstance(task, Train)
    content, style = batch["content"], Style(batch["style"])

    def distance(image: Tensor) -> float:
        own, its = (task.measure.seen(signed(each)) for each in (image, style.image))
        return sum(float((position_gram(own[tap]) - position_gram(its[tap])).square().mean()) for tap in TAPS)

    for start in (content, content.lerp(photos(1, 64, seed=5), 0.5)):
        task.init_image = start
        for level in (2, 1):
            refined = image_of(task, style, content=content, start_level=level)
            assert distance(refined) < distance(start)
