"""Linear transformation at work: video, regions, tiles, mixtures; checks 13, 14 and 15 of paper 09."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.method import Regions, Style, Task
from stylemodels.methods.linear import StylizeControls, Train
from stylemodels.raster import Raster
from stylemodels.settings import build
from tests.stylemodels.linear_models import model, random_transform, trained
from tests.stylemodels.toy import paintings, photos, small_task


def pan(count: int, size: int = 48) -> list[Tensor]:
    """A window that moves over a photo by a pixel each frame."""
    photo = photos(1, size + count, seed=3)
    return [photo[..., n : n + size, n : n + size] for n in range(count)]


def video(task: Task, frames: list[Tensor], **controls: object) -> list[Tensor]:
    styles = [Style(paintings(1, 40))]
    told = build(task.Controls, controls)
    return [picture.image for picture in task.stylize_video(iter(frames), styles, told)]


def flicker(frames: list[Tensor]) -> float:
    return sum(float((b - a).abs().mean()) for a, b in pairwise(frames))


@pytest.mark.parametrize("temporal", ["none", "ema", "keyframe"])
def test_check_13_identical_frames_give_identical_outputs(temporal: str):
    first, *others = video(trained().task, [photos(1, 48)] * 4, temporal=temporal)
    assert all(torch.equal(first, other) for other in others)
    styles = [Style(paintings(1, 40))]
    assert torch.equal(first, trained().task.stylize(photos(1, 48), styles, StylizeControls()).image)


def test_check_13_with_frozen_statistics_a_frame_does_not_depend_on_others():
    frames = pan(6)
    whole = video(trained().task, frames, temporal="keyframe", cut_threshold=1.0)
    without = video(trained().task, [frames[0], frames[4]], temporal="keyframe", cut_threshold=1.0)
    assert torch.equal(whole[4], without[1])
    assert not torch.equal(whole[4], video(trained().task, frames)[4])


@pytest.mark.parametrize("temporal", ["ema", "keyframe"])
def test_check_13_a_cut_resets_what_frames_share(temporal: str):
    before, after = pan(4), [1 - frame for frame in pan(3)]
    whole = video(trained().task, before + after, temporal=temporal)
    alone = video(trained().task, after, temporal=temporal)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], alone, strict=True))
    uncut = video(trained().task, before + after, temporal=temporal, cut_threshold=1.0)
    assert not torch.equal(uncut[4], alone[0])


def test_check_13_noise_flickers_less_with_shared_statistics():
    random = torch.Generator().manual_seed(0)
    still = photos(1, 48)
    frames = [(still + 0.01 * torch.randn(still.shape, generator=random)).clamp(0, 1) for _ in range(8)]
    own, averaged, frozen = (
        flicker(video(trained().task, frames, temporal=temporal)) for temporal in ("none", "ema", "keyframe")
    )
    assert averaged <= own
    assert frozen <= own


def test_a_video_that_was_broken_off_goes_on_bit_for_bit():
    frames, task = pan(6), trained().task
    whole = video(task, frames, temporal="ema")
    drawing = task.stylize_video(iter(frames), [Style(paintings(1, 40))], StylizeControls(temporal="ema"))
    assert all(torch.equal(next(drawing).image, expected) for expected in whole[:3])
    state = task.video_state()
    drawing.close()  # type: ignore[attr-defined]
    assert task.video_state() == {}, "the next video begins anew"
    task.load_video_state(state)
    assert all(torch.equal(a, b) for a, b in zip(video(task, frames[3:], temporal="ema"), whole[3:], strict=True))


def test_styles_are_encoded_once_for_all_frames(monkeypatch: pytest.MonkeyPatch):
    encoded: list[tuple[int, ...]] = []
    encode = trained().task.encode
    monkeypatch.setattr(trained().task, "encode", lambda images: encoded.append(tuple(images.shape)) or encode(images))
    video(trained().task, pan(3))
    assert encoded == [(1, 3, 40, 40), *3 * [(1, 3, 48, 48)]]


def labels(*columns: int, size: int = 64) -> Tensor:
    """A label map of vertical stripes of equal width."""
    return torch.tensor(columns).repeat_interleave(size // len(columns)).expand(1, 1, size, size).clone()


def drawn_by_region(task: Train, content_labels: Tensor, style_labels: Tensor) -> Tensor:
    style = Style(paintings(1, 64), regions=Regions(content_labels, style_labels))
    image = task.stylize(photos(1, 64), [style], StylizeControls()).image
    assert image is not None
    return image


def unmasked(task: Train) -> Tensor:
    image = task.stylize(photos(1, 64), [Style(paintings(1, 64))], StylizeControls()).image
    assert image is not None
    return image


def test_check_14_one_region_that_covers_everything_is_the_unmasked_result():
    assert_close(drawn_by_region(trained().task, labels(5), labels(5)), unmasked(trained().task), rtol=0, atol=1e-5)


def test_check_14_two_regions_of_one_style_are_near_the_unmasked_result():
    plain = unmasked(trained().task)
    # both halves of the style show the same stripes
    difference = (drawn_by_region(trained().task, labels(1, 2), labels(1, 2)) - plain).abs().mean()
    assert difference < 0.5 * (plain - photos(1, 64)).abs().mean()


def test_check_14_a_region_that_the_style_lacks_is_drawn_as_without_regions():
    plain = unmasked(trained().task)
    missing = drawn_by_region(trained().task, labels(1, 2), labels(1, 1))
    far_inside = slice(64 // 2 + 12, None)  # beyond what the decoder sees of the other half
    assert_close(missing[..., far_inside], plain[..., far_inside], rtol=0, atol=1e-6)
    assert missing[..., 32:].mean() > plain[..., 32:].mean() - 0.02, "nothing goes dark"


def test_regions_of_a_few_cells_count_as_unlabelled():
    speck = labels(1)
    speck[..., :8, :8] = 2  # 2 x 2 cells
    style = labels(1)
    style[..., 32:] = 2
    content = trained().task.encode(photos(1, 64)), trained().task.encode(paintings(1, 64))
    changed = trained().task.transform.by_region(*content, Regions(speck, style), 10)
    assert_close(changed[..., :2, :2], trained().task.transform(*content)[..., :2, :2])


def test_check_15_masks_and_label_maps_of_another_size_are_refused():
    style = paintings(1, 40)
    with pytest.raises(ValueError, match="style 1: mask"):
        model().stylize(photos(1, 48), [Style(style, mask=torch.ones(1, 1, 40, 48))])
    with pytest.raises(ValueError, match="style 1: regions"):
        model().stylize(photos(1, 48), [Style(style, regions=Regions(labels(1), labels(1)))])


def test_statistics_of_a_video_do_not_mix_with_those_of_a_second_pass():
    frames = model().frames(iter(pan(2)), [Style(paintings(1, 40))], {"temporal": "ema", "passes": 2})
    with pytest.raises(ValueError, match="passes: frames that share statistics"):
        next(frames)


def test_alpha_0_is_the_auto_encoder_s_picture_and_1_the_style_s():
    content, style = photos(1, 48), Style(paintings(1, 40))
    own, painted = trained().task.encode(content), trained().task.encode(style.image)
    changed = trained().task.transform(own, painted)
    for alpha, expected in ((0.0, own), (0.5, own.lerp(changed, 0.5)), (1.0, changed)):
        image = trained().task.stylize(content, [style], StylizeControls(alpha=alpha)).image
        assert_close(image, trained().task.decoder(expected), rtol=0, atol=1e-5)


def test_several_styles_are_mixed_by_weight_and_shared_out_by_mask():
    content, pictures = photos(1, 48), paintings(2, 48).split(1)
    own = trained().task.encode(content)
    changed = [trained().task.transform(own, trained().task.encode(picture)) for picture in pictures]
    styles = [Style(pictures[0], 0.25), Style(pictures[1], 0.75)]
    mixture = trained().task.decoder(0.25 * changed[0] + 0.75 * changed[1])
    assert_close(trained().task.stylize(content, styles, StylizeControls()).image, mixture, rtol=0, atol=1e-5)
    left = torch.zeros(1, 1, 48, 48)
    left[..., :24] = 1
    masked = [Style(pictures[0], mask=left), Style(pictures[1], mask=1 - left)]
    shared = trained().task.decoder(torch.cat([changed[0][..., :6], changed[1][..., 6:]], 3))
    assert_close(trained().task.stylize(content, masked, StylizeControls()).image, shared, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["r31", "r41"])
def test_tiles_give_the_whole_picture(tmp_path: Path, layer: str):
    task = small_task("linear/train", layer=layer)
    task.transform = random_transform(task.encoder.channels[task.taps[0]])
    source, target = (Raster(tmp_path / name, 136, 200) for name in ("source", "target"))
    content = photos(1, 200)[..., :136, :]
    source.write(0, 0, content)
    mask = labels(0, 1, size=200)[..., :136, :].float()
    styles = [Style(paintings(1, 90), mask=mask), Style(paintings(1, 64, seed=1), mask=1 - mask)]
    controls = StylizeControls(alpha=0.9)
    told: list[float] = []
    task.report = told.append
    task.stylize_tiles(source, target, styles, controls, tile=48)
    whole = task.stylize(content, styles, controls).image
    assert_close(target.read(0, 0, 136, 200), whole, rtol=0, atol=1e-5)
    assert told == sorted(told)
    assert told[-1] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_label_maps_and_tiles_do_not_go_together(tmp_path: Path):
    source, target = (Raster(tmp_path / name, 64, 64) for name in ("source", "target"))
    style = Style(paintings(1, 64), regions=Regions(labels(1), labels(1)))
    with pytest.raises(ValueError, match="regions: label maps were given"):
        trained().task.stylize_tiles(source, target, [style], StylizeControls(), tile=48)


def test_check_15_a_video_without_frames_is_refused():
    with pytest.raises(ValueError, match="frames: the video has none"):
        video(trained().task, [])
