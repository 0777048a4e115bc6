"""The flexible convolutional solver at work: controls, masks, regions, video; checks 2, 4, 5 and 12 of paper 11."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.export import describe_model
from stylemodels.flicker import flicker
from stylemodels.matting import MattingLaplacian
from stylemodels.method import Regions, Style
from stylemodels.methods import find_task
from stylemodels.methods.solver import StylizeControls
from stylemodels.style_filters import mean_gram
from stylemodels.stylize import Model
from tests.stylemodels.solver_models import drawing, drawn, lively, solver, trained
from tests.stylemodels.toy import batch_of, paintings, photos

CONTENT = photos(1, 48)
FIRST, SECOND = paintings(1, 40), paintings(1, 56, seed=5)


def controls(**told: object) -> StylizeControls:
    return StylizeControls(**told)


def model() -> Model:
    method, name = find_task("solver/train")
    return Model(drawing(), describe_model(drawing(), method, name))


def half_mask(side: int = 48) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


def test_check_2_mu_goes_from_the_content_bit_by_bit_to_further_and_further_away():
    moves = [
        float((drawn(drawing(), CONTENT, Style(FIRST), controls=controls(mu=mu)) - CONTENT).norm())
        for mu in (0.0, 0.25, 0.5, 1.0, 1.5)
    ]
    assert moves[0] == 0
    assert moves == sorted(moves)
    assert len(set(moves)) == 5


def test_check_4_one_style_with_all_the_weight_or_two_that_are_equal_are_that_style():
    alone = drawn(drawing(), CONTENT, Style(FIRST))
    assert_close(drawn(drawing(), CONTENT, Style(FIRST, 1.0), Style(SECOND, 0.0)), alone, rtol=0, atol=1e-5)
    assert_close(drawn(drawing(), CONTENT, Style(FIRST, 0.3), Style(FIRST, 0.7)), alone, rtol=0, atol=1e-5)
    assert not torch.allclose(drawn(drawing(), CONTENT, Style(SECOND)), alone, atol=1e-2)


def test_check_5_masks_of_one_style_are_no_masks():
    alone = drawn(drawing(), CONTENT, Style(FIRST))
    everywhere = drawn(drawing(), CONTENT, Style(FIRST, mask=torch.ones(1, 1, 48, 48)))
    halves = drawn(drawing(), CONTENT, Style(FIRST, mask=half_mask()), Style(FIRST, mask=1 - half_mask()))
    assert_close(everywhere, alone, rtol=0, atol=1e-5)
    assert_close(halves, alone, rtol=0, atol=1e-5)


def test_check_5_far_from_a_border_each_side_has_its_own_style():
    """Up to the statistics of the instance norms, which the other half moves from the second step on."""
    content, mask = photos(1, 128), half_mask(128)
    told = controls(stop_after=1, feather=4)
    both = drawn(drawing(), content, Style(FIRST, mask=mask), Style(SECOND, mask=1 - mask), controls=told)
    for style, side in ((FIRST, slice(0, 32)), (SECOND, slice(96, 128))):
        alone = drawn(drawing(), content, Style(style), controls=told)
        assert_close(both[..., side], alone[..., side], rtol=0, atol=1e-5)


def test_label_maps_pair_parts_of_the_content_with_parts_of_the_style():
    style = torch.cat([FIRST, SECOND[..., :40, :40]], 3)
    labels = torch.zeros(1, 1, 40, 80, dtype=torch.int64)
    labels[..., 40:] = 1
    everywhere = torch.ones(1, 1, 48, 48, dtype=torch.int64)
    found = drawn(drawing(), CONTENT, Style(style, regions=Regions(everywhere, labels)))
    alone = drawn(drawing(), CONTENT, Style(style))
    part = drawn(drawing(), CONTENT, Style(SECOND[..., :40, :40]))
    assert (found - part).norm() < 0.5 * (alone - part).norm(), "the same but for the seam, which the encoder sees"
    unknown = drawn(drawing(), CONTENT, Style(style, regions=Regions(everywhere + 5, labels)))
    assert_close(unknown, alone, rtol=0, atol=1e-5)


def test_taps_have_a_strength_each_for_all_steps_or_step_by_step():
    task = drawing()
    scales = (1.0, 0.5, 2.0, 0.0)
    for_all = drawn(task, CONTENT, Style(FIRST), controls=controls(lambda_scales=scales))
    assert torch.equal(drawn(task, CONTENT, Style(FIRST), controls=controls(lambda_scales=scales * 2)), for_all)
    silent_end = drawn(task, CONTENT, Style(FIRST), controls=controls(lambda_scales=scales + (0.0,) * 4))
    after_one = drawn(task, CONTENT, Style(FIRST), controls=controls(lambda_scales=scales, stop_after=1))
    assert torch.equal(silent_end, after_one)


def test_the_picture_after_every_step_is_there_to_be_seen():
    picture = drawing().stylize(CONTENT, [Style(FIRST)], controls())
    assert picture.image is not None
    assert list(picture.maps) == ["step-1", "step-2"]
    early = drawn(drawing(), CONTENT, Style(FIRST), controls=controls(stop_after=1))
    assert torch.equal(picture.maps["step-1"], early.clamp(0, 1))
    assert torch.equal(picture.maps["step-2"], picture.image.clamp(0, 1))


def test_a_preview_shows_every_step_and_how_the_energy_falls():
    task = trained(70, 32, batch_size=4).task
    grid = task.preview(batch_of(task.preview_streams(), 500))
    assert [name for name, _ in grid[-2:]] == ["step-1-1-1", "energy"]
    assert all(picture.shape[0] == 3 for _, picture in grid)
    left, right = (grid[-1][1][0, :, column].argmin() for column in (0, -1))
    assert left < right, "the line begins above its end"


def test_check_11_photo_realism_brings_the_picture_nearer_to_local_affine_maps_of_the_photo():
    matting = MattingLaplacian(CONTENT, eps=1e-4)
    pictures = [
        drawn(drawing(), CONTENT, Style(FIRST), controls=controls(photo_lambda=weight)) for weight in (0.0, 0.1, 1.0)
    ]
    energies = [float(matting.energy(picture)) for picture in pictures]
    assert energies[1] < 0.8 * energies[0]
    assert energies[2] < 0.8 * energies[1]
    assert pictures[2].dtype == CONTENT.dtype


def pan(count: int) -> list[Tensor]:
    scene = photos(1, 80)
    return [scene[..., 16:64, n : n + 48] for n in range(count)]


def video(frames: list[Tensor], **told: object) -> Iterator[Tensor]:
    for picture in drawing().stylize_video(iter(frames), [Style(FIRST)], controls(**told)):
        assert picture.image is not None
        yield picture.image


def test_a_video_without_its_term_is_drawn_frame_by_frame():
    frames = pan(2)
    for frame, picture in zip(frames, video(frames), strict=True):
        assert torch.equal(picture, drawn(drawing(), frame, Style(FIRST)))
    assert drawing().video_state() == {}


@pytest.mark.parametrize("flow", ["none", "shift"])
def test_a_noisy_video_is_calmer_with_its_term(flow: str):
    random = torch.Generator().manual_seed(0)
    frames = [CONTENT + 0.02 * torch.randn(CONTENT.shape, generator=random) for _ in range(4)]

    def changes(**told: object) -> float:
        return flicker(video(frames, **told), frames)

    assert changes(video_lambda=5.0, video_flow=flow) < 0.75 * changes()


def test_a_video_that_was_broken_off_goes_on_bit_for_bit():
    frames, told = pan(4), {"video_lambda": 2.0, "video_flow": "shift"}
    whole = list(video(frames, **told))
    begun = video(frames, **told)
    first = [next(begun), next(begun)]
    state = drawing().video_state()
    begun.close()
    assert drawing().video_state() == {}
    drawing().load_video_state(state)
    assert all(torch.equal(a, b) for a, b in zip([*first, *video(frames[2:], **told)], whole, strict=True))


def test_styles_are_read_over_kappa_in_the_onnx_form_too():
    task = lively(solver(filter_norm="none"))
    task.kappa.rms.copy_(torch.tensor([0.5, 1.5, 2.0, 4.0]))
    filters, features = task.filters([Style(FIRST)], CONTENT, controls()), task.encoder(FIRST, task.style_taps)
    for (whole,), values, kappa in zip(filters, features.values(), task.kappa.rms, strict=True):
        assert_close(whole.gram, mean_gram(values) / kappa**2)
    image = drawn(task, CONTENT, Style(FIRST))
    assert not torch.equal(image, CONTENT)
    assert_close(task.onnx_form()(CONTENT, FIRST), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"lambda_scales": (1.0, 1.0)}, r"lambda_scales: 2 were given, the model takes 4, or 8"),
        ({"stop_after": 3}, "stop_after: 3 was given, the model has 2 steps"),
        ({"photo_mode": "explicit", "photo_lambda": 0.2}, "photo_lambda: 0.2 was given"),
    ],
)
def test_check_12_controls_that_do_not_fit_the_model_are_named(told: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        drawn(drawing(), CONTENT, Style(FIRST), controls=controls(**told))


def test_check_12_a_style_that_is_too_small_is_named():
    with pytest.raises(ValueError, match=r"styles: a side of 31 px was given, it must be at least 32"):
        drawn(drawing(), CONTENT, Style(FIRST[..., :31]))


def test_check_12_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="content: the picture contains values that are not numbers"):
        model().stylize(CONTENT * float("nan"), [Style(FIRST)])
    with pytest.raises(ValueError, match="styles: 0 pictures were given"):
        model().stylize(CONTENT, [])
    with pytest.raises(ValueError, match="style 1: mask: shape"):
        model().stylize(CONTENT, [Style(FIRST, mask=torch.ones(1, 1, 8, 8))])
    with pytest.raises(ValueError, match="weights: "):
        model().stylize(CONTENT, [Style(FIRST, -1.0), Style(SECOND, 2.0)])
    with pytest.raises(ValueError, match="passes: with video_lambda"):
        list(model().frames(iter(pan(2)), [Style(FIRST)], {"passes": 2, "video_lambda": 1.0}))


def test_check_12_weights_are_shares_and_a_mask_leaves_the_rest_to_the_others():
    """Check 12: no sum of weights and no count of masks is wrong, for what is missing follows."""
    shares = model().stylize(CONTENT, [Style(FIRST, 3.0), Style(SECOND, 7.0)])
    assert_close(shares, model().stylize(CONTENT, [Style(FIRST, 0.3), Style(SECOND, 0.7)]))
    one_mask = model().stylize(CONTENT, [Style(FIRST, mask=half_mask()), Style(SECOND)])
    both = model().stylize(CONTENT, [Style(FIRST, mask=half_mask()), Style(SECOND, mask=1 - half_mask())])
    assert_close(one_mask, both)


def test_the_strength_of_the_product_is_mu():
    half = model().stylize(CONTENT, [Style(FIRST)], {"strength": 0.5})
    assert_close(half, model().stylize(CONTENT, [Style(FIRST)], {"mu": 0.5}))
    assert torch.equal(model().stylize(CONTENT, [Style(FIRST)], {"strength": 0.0}), CONTENT)
