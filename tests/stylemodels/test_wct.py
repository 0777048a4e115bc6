"""Universal style transfer: what is special about it. What every method owes is in test_methods.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.method import Style, Task
from stylemodels.methods.wct import METHOD, StylizeControls, Train, TrainConfig
from stylemodels.raster import Raster
from stylemodels.whitening import wct
from tests.stylemodels.toy import advance, batch_of, fixed_batch, paintings, photos, small_run, small_task

CONTENT, STYLE = photos(1, 64), paintings(1, 64)


def task_of(*levels: int, **settings: Any) -> Train:
    task = small_task("wct/train", levels=list(levels), **settings)
    assert isinstance(task, Train)
    return task


def drawn(task: Task, controls: StylizeControls, *, content: Tensor = CONTENT) -> Tensor:
    image = task.stylize(content, [Style(STYLE)], controls).image
    assert image is not None
    return image


def test_every_level_is_a_phase_of_its_own_with_its_decoder_alone():
    run = small_run("wct/train", levels=[5, 3, 1], steps=2)
    assert [(phase.name, phase.steps) for phase in run.phases] == [("level5", 2), ("level3", 2), ("level1", 2)]
    for level in (5, 3, 1):
        learning = {name.split(".")[1] for name, p in run.task.named_parameters() if p.requires_grad}
        assert learning == {f"level{level}"}
        advance(run, 2)


def test_the_loss_is_that_of_pixels_and_of_the_level_s_own_features():
    task = task_of(4, 2, feature_weight=0.25, content_size=64)
    task.begin("level4", 0)
    batch = fixed_batch(task)
    features = task.encoder(batch["content"], ["relu4_1"])["relu4_1"]
    output = task.decoders["level4"](features)
    again = task.encoder(output, ["relu4_1"])["relu4_1"]
    terms = task(batch)
    assert list(terms) == ["pixel_loss", "feature_loss"]
    assert_close(terms["pixel_loss"], ((output - batch["content"]) ** 2).mean())
    assert_close(terms["feature_loss"], 0.25 * ((again - features) ** 2).mean())


def test_gradients_reach_the_decoder_through_the_encoder_which_stays():
    run = small_run("wct/train", levels=[2])
    before = [p.clone() for p in run.task.get_submodule("encoder").parameters()]
    terms = run.task(batch_of(run.streams()))
    gradients = run.task.gradients(terms["feature_loss"])
    assert len(gradients.values) == len(list(run.task.get_submodule("decoders.level2").parameters()))
    assert all(value.abs().sum() > 0 for value in gradients.values.values())
    advance(run, 2)
    assert all(torch.equal(*pair) for pair in zip(before, run.task.get_submodule("encoder").parameters(), strict=True))


def test_reconstruction_is_learned_at_every_level():
    run = small_run("wct/train", levels=[3, 2, 1], steps=60)
    for _ in run.phases:
        losses = [sum(run.advance(batch_of(run.streams(), 0)).values()) for _ in range(60)]
        assert losses[-1] < 0.5 * losses[0]


def test_a_picture_goes_through_all_levels_from_coarse_to_fine():
    task = task_of(1, 4, 2)
    expected = CONTENT
    for level in (4, 2, 1):
        pair = task.pair(level)
        expected = pair.decode(wct(pair.encode(expected), pair.encode(STYLE)))
    assert_close(drawn(task, StylizeControls()), expected, rtol=1e-3, atol=1e-4)


def test_levels_can_be_chosen_and_ordered():
    task = task_of(4, 2, 1)
    one = drawn(task, StylizeControls(levels=(2,)))
    assert_close(drawn(task, StylizeControls(levels=(2, 1))), drawn(task, StylizeControls(levels=(1,)), content=one))


def test_alpha_0_is_the_plain_reconstruction_bit_for_bit():
    task = task_of(3)
    pair = task.pair(3)
    assert torch.equal(drawn(task, StylizeControls(alpha=0.0)), pair.decode(pair.encode(CONTENT)))


def test_a_level_that_was_not_trained_is_refused():
    with pytest.raises(ValueError, match="levels: 5 was given, this model has 1, 3"):
        drawn(task_of(3, 1), StylizeControls(levels=(5, 1)))


@pytest.mark.parametrize("levels", [[], [3, 3]])
def test_no_level_or_one_twice_cannot_be_trained(levels: list[int]):
    with pytest.raises(ValueError, match=r"levels: .* were given, allowed are different ones out of 1 to 5"):
        task_of(*levels)


@pytest.mark.parametrize("stats", ["exact", "thumbnail"])
def test_tiles_give_the_whole_picture(stats: Any, tmp_path: Path):
    task, content = task_of(3, 1), photos(1, 96)
    source, target = Raster(tmp_path / "source", 96, 96), Raster(tmp_path / "target", 96, 96)
    source.write(0, 0, content)
    heard = list[float]()
    task.report = heard.append
    controls = StylizeControls(stats=stats, thumb_size=96, eig_eps=1e-2, cov_shrink=0.1, alpha=0.8)
    task.stylize_tiles(source, target, [Style(STYLE)], controls, tile=32)
    assert_close(target.read(0, 0, 96, 96), drawn(task, controls, content=content), rtol=1e-4, atol=1e-4)
    assert heard[8] < 0.9
    assert heard[-1] == pytest.approx(1)


def test_the_preview_shows_every_level_so_far_and_photos_in_each_other_s_style():
    run = small_run("wct/train", levels=[3, 1], steps=2, batch_size=4)
    batch = batch_of(run.task.preview_streams())
    names = [name for name, _ in run.preview(batch)]
    assert names == [f"{what}-{n}" for n in (1, 2, 3) for what in ("content", "level3", "result")]
    advance(run, 2)
    grid = dict(run.preview(batch))
    assert [name for name in grid if name.endswith("-1")] == ["content-1", "level3-1", "level1-1", "result-1"]
    assert all(picture.shape == grid["content-1"].shape for picture in grid.values())
    finished = dict(task_of(3, 1).preview(batch))
    assert finished.keys() == grid.keys()


def test_a_preview_of_one_photo_takes_it_as_its_own_style():
    task = task_of(2, batch_size=1)
    assert [name for name, _ in task.preview(batch_of(task.preview_streams()))] == ["content-1", "level2-1", "result-1"]


def test_onnx_is_told_why_not():
    reason = task_of(1).onnx_form()
    assert isinstance(reason, str)
    assert "eigenvalues" in reason


def test_it_takes_up_to_eight_styles_with_masks():
    assert (METHOD.slug, Train.styles, Train.masks, Train.strength) == ("wct", (1, 8), True, "alpha")
    assert TrainConfig().levels == (5, 4, 3, 2, 1)
