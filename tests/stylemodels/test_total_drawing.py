"""Total style transfer at work: strength, masks, tiles, video; checks 9 to 12 of its specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from stylemodels.export import describe_model
from stylemodels.method import Style
from stylemodels.methods.total import METHOD, StylizeControls, Train
from stylemodels.raster import Raster
from stylemodels.scales import Statistics
from stylemodels.stylize import Model
from tests.images import photograph
from tests.stylemodels.toy import batch_of, paintings, photos, small_run, small_task

Contents: TypeAlias = Callable[[int, int, int], Tensor]  # count, size, seed -> pictures
FOUR = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]


@cache
def untrained(**settings: Any) -> Train:
    """Its pictures lie around 0.5; not to be changed."""
    task = small_task("total/train", **{key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()})
    assert isinstance(task, Train)
    return task.eval()


def model() -> Model:
    return Model(untrained(), describe_model(untrained(), METHOD, "train"))


def drawn(task: Train, content: Tensor, *styles: Style, **told: Any) -> Tensor:
    image = task.stylize(content, styles, StylizeControls(**told)).image
    assert image is not None
    return image


def features_of(task: Train, content: Tensor, style: Tensor, mode: Any = "inter") -> tuple[list[Tensor], list[Tensor]]:
    """The content's own and transformed features."""
    own, painted = task.encode(content), task.encode(style)
    return own, task.transformed(own, task.maps(task.statistics(own, mode), task.statistics(painted, mode)))


# --- 10: controls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["intra", "inter"])
def test_check_10_alpha_0_decodes_the_content_bit_for_bit_and_1_the_style(transform: str):
    task, content, style = untrained(transform=transform), photos(1, 48), paintings(1, 40)
    own, changed = features_of(task, content, style, transform)
    assert torch.equal(drawn(task, content, Style(style), alpha=0.0), task.decoder(own))
    assert_close(drawn(task, content, Style(style)), task.decoder(changed), rtol=0, atol=1e-5)
    half = task.decoder([0.25 * c + 0.75 * f for f, c in zip(own, changed, strict=True)])
    assert_close(drawn(task, content, Style(style), alpha=0.25), half, rtol=0, atol=1e-5)


def test_each_scale_has_a_strength_of_its_own():
    task, content, style = untrained(), photos(1, 48), paintings(1, 40)
    own, changed = features_of(task, content, style)
    told = drawn(task, content, Style(style), alpha=0.5, scale_alphas=(1.0, 0.0, 0.5))
    expected = [f.lerp(c, alpha) for f, c, alpha in zip(own, changed, (0.5, 0.0, 0.25), strict=True)]
    assert_close(told, task.decoder(expected), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="scale_alphas: 2 were given, this model has 3 scales"):
        drawn(task, content, Style(style), scale_alphas=(1.0, 0.0))


def test_a_model_draws_in_the_other_mode_when_told():
    content, style = photos(1, 48), paintings(1, 40)
    _, changed = features_of(untrained(), content, style, "intra")
    told = drawn(untrained(), content, Style(style), transform="intra")
    assert_close(told, untrained().decoder(changed), rtol=0, atol=1e-5)
    assert not torch.allclose(told, drawn(untrained(), content, Style(style)), atol=1e-3)


def test_styles_are_mixed_by_weight_at_every_scale():
    task, content, (first, second) = untrained(), photos(1, 48), paintings(2, 40).split(1)
    each = [features_of(task, content, style)[1] for style in (first, second)]
    expected = task.decoder([0.3 * a + 0.7 * b for a, b in zip(*each, strict=True)])
    assert_close(drawn(task, content, Style(first, 0.3), Style(second, 0.7)), expected, rtol=0, atol=1e-5)


def test_masks_give_each_position_of_each_scale_its_own_mixture():
    task, content, (first, second) = untrained(), photos(1, 48), paintings(2, 40).split(1)
    mask = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    each = [features_of(task, content, style)[1] for style in (first, second)]
    shares = [avg_pool2d(mask, 1 << place) for place in range(3)]
    expected = task.decoder([s * a + (1 - s) * b for s, a, b in zip(shares, *each, strict=True)])
    told = drawn(task, content, Style(first, mask=mask), Style(second, mask=1 - mask))
    assert_close(told, expected, rtol=0, atol=1e-5)
    everywhere = torch.ones(1, 1, 48, 48)
    alone = drawn(task, content, Style(first, mask=everywhere), Style(second, mask=1 - everywhere))
    assert_close(alone, drawn(task, content, Style(first)))


def test_the_preview_shows_what_each_scale_alone_contributes():
    run = small_run("total/train")
    batch = batch_of(run.task.preview_streams())
    grid = dict(run.preview(batch))
    assert [name for name in grid if name.startswith("result-1-1")] == [
        "result-1-1", "result-1-1-relu1_2", "result-1-1-relu2_2", "result-1-1-relu3_3",
    ]  # fmt: skip
    only = drawn(run.task, batch["content"][:1], Style(batch["style"][:1]), scale_alphas=(0.0, 1.0, 0.0))
    assert_close(grid["result-1-1-relu2_2"], only[0].clamp(0, 1))


# --- 12: sizes, and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [(16, 16), (17, 43), (75, 50)])
@pytest.mark.parametrize("style", [(1, 1), (33, 50), (90, 64)])
def test_check_12_a_picture_of_any_size_takes_a_style_of_any_other(content: tuple[int, int], style: tuple[int, int]):
    photo, painting = photos(1, 80)[..., : content[0], : content[1]], paintings(1, 90)[..., : style[0], : style[1]]
    result = model().stylize(photo, [Style(painting)])
    assert result.shape == photo.shape
    assert result.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_check_12_constant_pictures_give_finite_ones(value: float):
    flat, style = torch.full((1, 3, 48, 48), value), Style(paintings(1, 48))
    for content, styles in ((flat, [style]), (photos(1, 48), [Style(flat)]), (flat, [Style(flat)])):
        assert model().stylize(content, styles).isfinite().all()


def test_a_style_of_one_colour_gives_features_of_one_colour():
    """But for the border, where zeros or reflections lie beside it."""
    task = untrained()
    flat = [torch.full_like(features, 0.7) for features in task.encode(paintings(1, 48))]
    own = task.encode(photos(1, 48))
    changed = task.transformed(own, task.maps(task.statistics(own, "inter"), task.statistics(flat, "inter")))
    for features in changed:
        assert_close(features, torch.full_like(features, 0.7), rtol=0, atol=1e-4)


def test_check_12_what_cannot_be_drawn_is_named():
    content, style = photos(1, 64), paintings(1, 48)
    broken = content.clone()
    broken[0, 1, 5, 6] = float("nan")
    mask = torch.ones(1, 1, 32, 64)
    for picture, styles, reason in (
        (content[..., :15, :], [Style(style)], "content: .* at least 16 px"),
        (broken, [Style(style)], "content: .* not numbers"),
        (content, [Style(broken)], "style 1: .* not numbers"),
        (content, [Style(style, 0.0)], "weights: 0.0 were given"),
        (content, [Style(style), Style(style, mask=mask)], "style 2: mask: shape .*32, 64"),
    ):
        with pytest.raises(ValueError, match=reason):
            model().stylize(picture, styles)
    with pytest.raises(ValueError, match=r"alpha: 1\.5 was given"):
        model().stylize(content, [Style(style)], {"alpha": 1.5})


def test_the_form_for_onnx_draws_what_the_model_draws():
    content, style = photos(1, 64), paintings(1, 48)
    for task in (untrained(), untrained(transform="intra")):
        assert_close(task.onnx_form()(content, style), drawn(task, content, Style(style)), rtol=0, atol=1e-4)


# --- tiles and video -------------------------------------------------------------------------------------------------


def in_tiles(
    task: Train, folder: Path, content: Tensor, styles: Sequence[Style], tile: int = 48, **told: Any
) -> Tensor:
    height, width = content.shape[-2:]
    source, target = (Raster(folder / name, height, width) for name in ("source", "target"))
    source.write(0, 0, content)
    heard: list[float] = []
    task.report = heard.append
    task.stylize_tiles(source, target, styles, StylizeControls(**told), tile=48)
    assert heard == sorted(heard)
    assert heard[-1] == 1
    return target.read(0, 0, height, width)


@pytest.mark.parametrize("taps", [FOUR[:3], FOUR])
@pytest.mark.parametrize("transform", ["intra", "inter"])
def test_tiles_give_the_whole_picture(tmp_path: Path, taps: list[str], transform: str):
    task = untrained(taps=tuple(taps))
    content = photos(1, 200)[..., :136, :]
    mask = torch.linspace(-3, 3, 200).add(torch.linspace(-1, 1, 136)[:, None]).sigmoid()[None, None]
    styles = [Style(paintings(1, 93), mask=mask), Style(paintings(1, 64, seed=1), mask=1 - mask)]
    told = {"alpha": 0.9, "transform": transform, "scale_alphas": (1.0, 0.5, 0.8, 1.0)[: len(taps)]}
    whole = drawn(task, content, *styles, **told)
    assert whole.std() > 0.01, "there is something to see"
    assert_close(in_tiles(task, tmp_path, content, styles, **told), whole, rtol=0, atol=1e-4)


def test_a_model_that_up_samples_bilinearly_draws_in_tiles_what_needs_no_joint_statistics(tmp_path: Path):
    task, content, style = untrained(resample="bilinear_avg"), photos(1, 96), Style(paintings(1, 64))
    with pytest.raises(ValueError, match=r"tile: this model up-samples bilinearly"):
        in_tiles(task, tmp_path, content, [style])
    whole = drawn(task, content, style, transform="intra")
    assert_close(in_tiles(task, tmp_path, content, [style], transform="intra"), whole, rtol=0, atol=1e-4)


def video(frames: Sequence[Tensor], **told: Any) -> list[Tensor]:
    pictures = untrained().stylize_video(iter(frames), [Style(paintings(1, 40))], StylizeControls(**told))
    return [picture.image for picture in pictures if picture.image is not None]


def test_frames_are_drawn_as_pictures_unless_they_share_their_statistics():
    task, style, frames = untrained(), paintings(1, 40), list(photos(3, 48).split(1))
    apart = video(frames)
    assert all(torch.equal(a, drawn(task, frame, Style(style))) for a, frame in zip(apart, frames, strict=True))
    own = [task.statistics(task.encode(frame), "inter")[0] for frame in frames]
    second = Statistics(*(0.8 * a + 0.2 * b for a, b in zip(own[0], own[1], strict=True)))
    for told, statistics in (({"temporal": "keyframe"}, own[0]), ({"temporal": "ema", "ema_decay": 0.8}, second)):
        maps = task.maps([statistics], task.statistics(task.encode(style), "inter"))
        expected = task.decoder(task.transformed(task.encode(frames[1]), maps))
        assert_close(video(frames, cut_threshold=1.0, **told)[1], expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="frames: the video has none"):
        video([])


def test_a_video_that_was_broken_off_goes_on_bit_for_bit():
    task, frames, styles = untrained(), photos(4, 48).split(1), [Style(paintings(1, 40))]
    told = {"temporal": "ema", "cut_threshold": 1.0}
    whole = video(frames, **told)
    drawing = task.stylize_video(iter(frames), styles, StylizeControls(**told))
    for expected in whole[:2]:
        assert torch.equal(next(drawing).image, expected)
    state = task.video_state()
    drawing.close()  # type: ignore[attr-defined]
    task.load_video_state(state)
    assert all(torch.equal(a, b) for a, b in zip(video(frames[2:], **told), whole[2:], strict=True))


# --- 9, 10 and 11: trained -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    task: Train
    terms: list[dict[str, float]]


@cache
def trained(steps: int, *, contents: Contents = photos, **settings: Any) -> Trained:
    """Not to be changed."""
    run = small_run("total/train", steps=steps, **settings)
    terms = []
    for step in range(steps):
        batch = batch_of(run.streams(), step % 50)
        count, _, _, size = batch["content"].shape
        terms.append(run.advance({**batch, "content": contents(count, size, step % 50)}))
    assert isinstance(run.task, Train)
    return Trained(run.task.eval(), terms)


def trained_long(**settings: Any) -> Trained:
    """With the small narrow encoder on crops of 64 px."""
    sizes = {"content_size": 64, "style_size": 64, "load_size": 64, "batch_size": 4}
    return trained(300, encoder="small-narrow", **sizes, **settings)


def photographs(count: int, size: int, seed: int = 0) -> Tensor:
    """With edges and texture, where `photos` are blurred noise."""
    pictures = [torch.from_numpy(photograph(size, size, seed=4 * seed + n)) for n in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


def pairs(contents: Contents = photos) -> tuple[Tensor, Tensor]:
    """Pictures that training did not see."""
    return contents(6, 64, 9_999), paintings(6, 64, 9_999)


def distances(task: Train, contents: Contents = photos, **told: Any) -> tuple[float, float]:
    """Equation 6 and content term of the pairs' pictures."""
    drawings = [
        drawn(task, c, Style(s), **told) for c, s in zip(*(one.split(1) for one in pairs(contents)), strict=True)
    ]
    return measured(task, torch.cat(drawings), contents)


@torch.no_grad()
def measured(task: Train, images: Tensor, contents: Contents = photos) -> tuple[float, float]:
    own, styles = pairs(contents)
    found = task.encode(images)
    style = task.style_distance(found, task.statistics(task.encode(styles), "inter"), "inter")
    return float(style), float(task.content_distance(found, task.encode(own)))


def singles(task: Train) -> list[float]:
    """Style distance with one scale transformed alone, fine to coarse."""
    return [distances(task, scale_alphas=tuple(float(n == place) for n in range(3)))[0] for place in range(3)]


def test_checks_9_and_10_in_short_the_style_distance_falls_and_alpha_leads_to_the_style():
    task, terms = trained(60)
    assert terms[-1]["style_distance"] < 0.8 * terms[0]["style_distance"]
    (none, near), (full, far) = distances(task, alpha=0.0), distances(task)
    assert full < none
    assert far > near


@pytest.mark.slow
def test_check_9_after_300_steps_the_style_distance_is_three_quarters_of_the_contents():
    task, terms = trained_long()
    last = terms[-20:]
    of_contents = measured(task, pairs()[0])[0]
    assert sum(term["style_distance"] for term in last) / 20 <= 0.75 * of_contents
    assert sum(term["content_distance"] for term in last) / 20 < 0.6


@pytest.mark.slow
def test_check_10_alpha_goes_from_content_to_style_without_a_step_back():
    """On pictures like photographs. Blurred noise the decoder, which never saw plain features, keeps best at 0.25."""
    task = trained_long(contents=photographs).task
    sweep = [distances(task, photographs, alpha=alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(after[0] < before[0] for before, after in pairwise(sweep))
    assert all(after[1] > before[1] for before, after in pairwise(sweep))


@pytest.mark.slow
def test_check_11_every_scale_contributes_to_the_style():
    """With dropped skips: without, the decoder learns to do without the coarsest scale."""
    task = trained_long(skip_dropout=0.2).task
    none, full = distances(task, alpha=0.0)[0], distances(task)[0]
    for single in singles(task):
        assert full < single < none
