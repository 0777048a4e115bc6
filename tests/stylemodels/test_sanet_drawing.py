"""SANet at work: the controls, sizes and refusals of its specification's checks 10 to 12, and what a picture costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.colour import coral
from stylemodels.export import write_model
from stylemodels.method import Style
from stylemodels.methods.sanet import METHOD, TAPS, StylizeControls, Train, style_loss
from stylemodels.stylize import Model, load_model
from stylemodels.train import Run
from tests.stylemodels.frugal import peaks
from tests.stylemodels.toy import advance, fixed_batch, paintings, photos, small_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """After three steps, written and loaded."""
    run = small_run("sanet/train")
    advance(run, 3)
    folder = tmp_path_factory.mktemp("sanet")
    write_model(folder, run.task, METHOD, "train")
    return load_model(folder)


# --- 10: controls ----------------------------------------------------------------------------------------------------


def drawn(task: Train, *styles: Style, alpha: float = 1.0) -> Tensor:
    image = task.stylize(photos(1, 64), styles, StylizeControls(alpha=alpha)).image
    assert image is not None
    return image


@pytest.fixture(scope="module")
def task(model: Model) -> Train:
    assert isinstance(model.task, Train)
    return model.task


def test_check_10_alpha_goes_from_the_network_s_content_to_its_style(task: Train):
    own, its = task.encoder(photos(1, 64), TAPS), task.encoder(paintings(1, 48), TAPS)
    start, end = task.transform(own, own), task.transform(own, its)
    style = Style(paintings(1, 48))
    assert torch.equal(drawn(task, style, alpha=0.0), task.decoder(start))
    assert torch.equal(drawn(task, style), task.decoder(end))
    assert_close(drawn(task, style, alpha=0.25), task.decoder(0.25 * end + 0.75 * start))


def test_check_10_styles_are_mixed_by_weight(task: Train):
    first, second = paintings(2, 48).split(1)
    alone = drawn(task, Style(first))
    assert torch.equal(drawn(task, Style(first, 1.0), Style(second, 0.0)), alone)
    assert_close(drawn(task, Style(first, 0.5), Style(first, 0.5)), alone)
    both = drawn(task, Style(first, 0.5), Style(second, 0.5))
    assert not torch.allclose(both, alone, atol=1e-3)


def test_check_10_eight_styles_are_one_average(task: Train):
    pictures = paintings(8, 48).split(1)
    own = task.encoder(photos(1, 64), TAPS)
    mean = torch.stack([task.transform(own, task.encoder(picture, TAPS)) for picture in pictures]).mean(0)
    assert_close(drawn(task, *(Style(picture, 1 / 8) for picture in pictures)), task.decoder(mean))


def test_check_10_a_mask_of_ones_is_its_style_everywhere(task: Train):
    first, second = paintings(2, 48).split(1)
    ones = torch.ones(1, 1, 64, 64)
    assert_close(drawn(task, Style(first, mask=ones), Style(second, mask=1 - ones)), drawn(task, Style(first)))
    assert_close(drawn(task, Style(first, mask=1 - ones), Style(second, mask=ones)), drawn(task, Style(second)))


def test_check_10_far_from_a_mask_s_edge_each_side_has_its_own_style(task: Train):
    first, second = paintings(2, 48).split(1)
    content = photos(1, 160)
    left = torch.zeros(1, 1, 160, 160)
    left[..., :80] = 1
    both, one, two = (
        task.stylize(content, styles, StylizeControls()).image
        for styles in ([Style(first, mask=left), Style(second, mask=1 - left)], [Style(first)], [Style(second)])
    )
    # The merging convolution comes before the mixture; the decoder's nine see 44 px around them.
    assert_close(both[..., :36], one[..., :36], rtol=0, atol=1e-5)
    assert_close(both[..., 124:], two[..., 124:], rtol=0, atol=1e-5)
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("size", [32, 45])
def test_check_10_coral_gives_the_style_the_content_s_colours_whatever_their_sizes(size: int):
    content, style = photos(1, 40).double(), photos(1, size, seed=5).double()
    recoloured = coral(style, content)
    for statistic in (lambda image: image.flatten(2).mean(-1)[0], lambda image: torch.cov(image.flatten(2)[0])):
        assert_close(statistic(recoloured), statistic(content), rtol=0, atol=1e-4)


# --- 12: sizes, and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [(75, 100), (16, 16), (17, 40), (16, 300)])
@pytest.mark.parametrize("style", [(90, 64), (1, 1), (33, 1), (400, 32)])
def test_check_12_a_picture_of_any_size_takes_a_style_of_any_other(
    model: Model, content: tuple[int, int], style: tuple[int, int]
):
    photo = photos(1, 300)[..., : content[0], : content[1]]
    painting = paintings(1, 400)[..., : style[0], : style[1]]
    result = model.stylize(photo, [Style(painting)])
    assert result.shape == photo.shape
    assert result.isfinite().all()


def test_check_12_the_network_itself_begins_at_32_px(task: Train):
    for content, style in (((16, 48), (48, 48)), ((48, 48), (48, 31))):
        with pytest.raises(ValueError, match="at least 32 px"):
            task.stylize(torch.rand(1, 3, *content), [Style(torch.rand(1, 3, *style))], StylizeControls())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_pictures_give_finite_ones(model: Model, value: float):
    flat, style = torch.full((1, 3, 48, 48), value), Style(paintings(1, 48))
    for content, styles in ((flat, [style]), (photos(1, 48), [Style(flat)]), (flat, [Style(flat)])):
        assert model.stylize(content, styles).isfinite().all()


def test_check_12_what_cannot_be_drawn_is_named(model: Model):
    content, style = photos(1, 64), paintings(1, 48)
    broken = content.clone()
    broken[0, 1, 5, 6] = float("nan")
    mask = torch.ones(1, 1, 32, 64)
    for picture, styles, reason in (
        (content[..., :15, :], [Style(style)], "content: .* at least 16 px"),
        (broken, [Style(style)], "content: .* not numbers"),
        (content, [Style(broken)], "style 1: .* not numbers"),
        (content, [], "styles: 0 pictures were given"),
        (content, [Style(style)] * 9, "styles: 9 pictures were given"),
        (content, [Style(style, -1.0), Style(style, 2.0)], "weights: -1.0, 2.0 were given"),
        (content, [Style(style, 0.0)], "weights: 0.0 were given"),
        (content, [Style(style), Style(style, mask=mask)], "style 2: mask: shape .*32, 64"),
    ):
        with pytest.raises(ValueError, match=reason):
            model.stylize(picture, styles)
    with pytest.raises(ValueError, match=r"alpha: 1\.5 was given"):
        model.stylize(content, [Style(style)], {"alpha": 1.5})


def test_check_12_weights_that_do_not_sum_to_one_are_shares(model: Model):
    first, second = paintings(2, 48).split(1)
    content = photos(1, 64)
    mixtures = [model.stylize(content, [Style(first, scale), Style(second, 3 * scale)]) for scale in (0.25, 1.0, 10.0)]
    for mixture in mixtures[1:]:
        assert_close(mixture, mixtures[0])


def test_the_strength_of_the_product_is_alpha(model: Model):
    content, style = photos(1, 64), Style(paintings(1, 48))
    half = model.stylize(content, [style], {"strength": 0.5})
    assert torch.equal(half, model.stylize(content, [style], {"alpha": 0.5}))
    assert not torch.equal(half, model.stylize(content, [style]))


def test_the_explicit_form_for_onnx_draws_what_the_model_draws(task: Train):
    content, style = photos(1, 64), paintings(1, 48)
    assert_close(task.onnx_form()(content, style), drawn(task, Style(style)), rtol=0, atol=1e-5)
    assert all(block.form == "sdpa" for block in task.transform.blocks.values()), "the task keeps its own"


# --- 11 --------------------------------------------------------------------------------------------------------------


def learner(steps: int) -> tuple[Run, dict[str, Tensor], list[float]]:
    """A run of so many steps on one batch of 48 x 48, Adam at 3e-4; the batch, and the total loss of each step."""
    run = small_run("sanet/train", content_size=48, style_size=48, batch_size=2, lr=3e-4, lr_decay=0.0, steps=steps)
    batch = dict(fixed_batch(run.task))
    return run, batch, [sum(run.advance(batch).values()) for _ in range(steps)]


def alpha_sweep(task: Train, batch: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """Style distance (equation 8) and squared distance to the content for alpha 0, 0.25, 0.5, 0.75, 1.

    The mean over the pairs of the batch: one pair alone may take a step of 1 in 400 the other way.
    """
    pairs = list(zip(batch["content"].split(1), batch["style"].split(1), strict=True))
    to_style, to_content = [], []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        images = [task.stylize(c, [Style(s)], StylizeControls(alpha=alpha)).image for c, s in pairs]
        drawn, styles = torch.cat(images), batch["style"]
        to_style.append(float(style_loss(task.encoder(drawn, TAPS), task.encoder(styles, TAPS))))
        to_content.append(float((drawn - batch["content"]).square().mean()))
    return to_style, to_content


def test_check_11_in_short_the_loss_falls_and_alpha_leads_to_the_style():
    run, batch, losses = learner(80)
    assert losses[-1] < 0.7 * losses[0]
    to_style, to_content = alpha_sweep(run.task, batch)
    assert to_style[-1] < to_style[0]
    assert to_content[-1] > to_content[0]


@pytest.mark.slow
def test_check_11_after_300_steps_the_loss_is_halved_and_after_800_the_alpha_sweep_is_monotone():
    run, batch, losses = learner(800)
    assert losses[299] < 0.5 * losses[0]
    to_style, to_content = alpha_sweep(run.task, batch)
    assert all(after < before for before, after in pairwise(to_style))
    assert all(after > before for before, after in pairwise(to_content))


# --- memory ----------------------------------------------------------------------------------------------------------

# Draws content and style of side x side px with one form of attention after the other, the most frugal first, and
# prints by how many MB the process had grown at its peak after each.
PEAKS = """
import re, sys, torch
from stylemodels.method import Style
from tests.stylemodels.toy import small_task

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) / 1024

def draw(form, side):
    task = small_task("sanet/train", attention=form).eval()
    content, style = torch.rand(2, 1, 3, side, side)
    picture = task.stylize(content, [Style(style)], task.Controls()).image
    assert picture.shape == content.shape and picture.isfinite().all()

torch.set_num_threads(1)
side, forms = int(sys.argv[1]), sys.argv[2:]
draw(forms[0], 64)
before = megabytes("VmRSS")
for form in forms:
    draw(form, side)
    print(form, megabytes("VmHWM") - before)
"""


def test_fused_and_chunked_attention_draw_a_picture_in_less_memory_than_the_whole_map_takes():
    side = 640
    map_megabytes = 4 * (side / 8) ** 4 / 2**20
    grown = peaks(PEAKS, str(side), "sdpa", "chunked", "full")
    assert grown["full"] > map_megabytes > 150
    assert grown["sdpa"] <= grown["chunked"] < 0.5 * grown["full"]


@pytest.mark.slow
def test_content_and_style_of_2048_px_are_drawn_in_an_eighth_of_what_their_map_takes():
    map_megabytes = 4 * (2048 / 8) ** 4 / 2**20
    assert map_megabytes == 16 * 1024
    grown = peaks(PEAKS, "2048", "sdpa", "chunked")
    assert grown["chunked"] < map_megabytes / 8
