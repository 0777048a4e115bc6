"""Total style transfer against its specification: transform, losses and training step.

Checks 3 and 6 are in test_scales.py, check 1 also in test_matrix_roots.py, checks 9 to 12 in test_total_drawing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.describe import on_meta_device
from stylemodels.distributed import Group
from stylemodels.methods.total import SkipDecoder, Train, groups, sst, style_distance
from stylemodels.scales import JointMoments, Mode, Statistics, joint_statistics
from stylemodels.train import Run
from stylemodels.vgg import VGG16_DEPTHS, VGG_WIDTHS, named_convolutions
from tests.stylemodels.test_scales import WIDTHS, concatenated, naive_statistics, random_scales
from tests.stylemodels.toy import advance, fixed_batch, paintings, photos, same, small_run, small_task

MODES: Sequence[Mode] = ("intra", "inter")


def total(**settings: object) -> Train:
    task = small_task("total/train", **settings)
    assert isinstance(task, Train)
    return task


def statistics(scales: Sequence[Tensor], mode: Mode) -> list[Statistics]:
    return [JointMoments.of(group).statistics for group in groups(scales, mode)]


# --- 1, 2 and 4: the transform ---------------------------------------------------------------------------------------


def test_check_1_transformed_features_have_the_style_s_mean_and_covariance():
    [own], [painted] = random_scales(widths=(6,)), random_scales(10, 14, widths=(6,), seed=1)
    change = sst(naive_statistics(own), naive_statistics(painted), 0.0)
    found, expected = naive_statistics(change([own], "nearest_avg")[0]), naive_statistics(painted)
    assert_close(found.mean, expected.mean, rtol=0, atol=1e-12)
    error = torch.linalg.matrix_norm(found.covariance - expected.covariance)
    assert (error <= 1e-10 * torch.linalg.matrix_norm(expected.covariance)).all()


@pytest.mark.parametrize("mode", MODES)
def test_check_2_in_its_own_style_a_picture_stays_as_it_is(mode: Mode):
    scales = random_scales()
    both = statistics(scales, mode)
    for group, one in zip(groups(scales, mode), both, strict=True):
        for before, after in zip(group, sst(one, one, 0.0)(group, "nearest_avg"), strict=True):
            assert_close(after, before, rtol=0, atol=1e-10)


def test_check_4_without_what_scales_have_in_common_inter_is_intra():
    scales, painted = random_scales(), random_scales(seed=1)
    block = torch.tensor([place for place, width in enumerate(WIDTHS) for _ in range(width)])
    same_scale = block[:, None] == block
    own, its = (
        one._replace(covariance=torch.where(same_scale, one.covariance, 0))
        for one in (*statistics(scales, "inter"), *statistics(painted, "inter"))
    )
    jointly = sst(own, its, 0.0)(scales, "nearest_avg")
    pairs = zip(statistics(scales, "intra"), statistics(painted, "intra"), strict=True)
    for place, pair in enumerate(pairs):
        assert_close(jointly[place], sst(*pair, 0.0)([scales[place]], "nearest_avg")[0], rtol=0, atol=1e-10)


def test_the_inter_scale_transform_gives_the_concatenation_the_style_s_statistics():
    task = total()
    own, painted = task.encode(photos(1, 64)), task.encode(paintings(1, 64))
    changed = task.transformed(own, task.maps(task.statistics(own, "inter"), task.statistics(painted, "inter")))
    found, target, before = (
        joint_statistics(scales, "nearest_avg", sums=torch.float64).covariance for scales in (changed, painted, own)
    )
    distance = torch.linalg.matrix_norm(torch.cat([found, before]) - target)
    assert distance[0] < 0.2 * distance[1], "pooling and the floor under the eigenvalues leave something"


# --- 5: losses -------------------------------------------------------------------------------------------------------


def in_numpy(output: Sequence[Tensor], style: Sequence[Tensor], mode: Mode) -> float:
    """Equations 5 and 6, of features as they are."""
    pairs = zip(output, style, strict=True)
    if mode == "inter":
        pairs = zip([concatenated(output, "nearest_avg")], [concatenated(style, "nearest_avg")], strict=True)
    distance = 0.0
    for pair in pairs:
        for own, target in zip(*(one.flatten(2).double().numpy() for one in pair), strict=True):
            distance += float(np.linalg.norm(own.mean(1) - target.mean(1)))
            distance += float(np.linalg.norm(np.cov(own, ddof=0) - np.cov(target, ddof=0)))
    return distance / len(output[0])


@pytest.mark.parametrize("mode", MODES)
def test_check_5_the_style_losses_are_the_equations_and_vanish_for_the_style_itself(mode: Mode):
    output, style = random_scales(), random_scales(32, 8, seed=1)
    own, target = statistics(output, mode), statistics(style, mode)
    assert float(style_distance(own, target, "fro")) == pytest.approx(in_numpy(output, style, mode), rel=1e-9)
    assert float(style_distance(own, own, "fro")) <= 1e-5
    assert float(style_distance(own, own, "mse")) == 0
    squares = [
        (a - b).square().mean() for one, its in zip(own, target, strict=True) for a, b in zip(one, its, strict=True)
    ]
    assert float(style_distance(own, target, "mse")) == pytest.approx(float(torch.stack(squares).sum()))


def test_check_5_equation_6_is_equation_5_and_what_scales_have_in_common():
    output, style = random_scales(count=1), random_scales(32, 8, count=1, seed=1)
    [own], [target] = statistics(output, "inter"), statistics(style, "inter")
    separate = list(zip(statistics(output, "intra"), statistics(style, "intra"), strict=True))
    mean = sum(float((a.mean - b.mean).square().sum()) for a, b in separate)
    assert float((own.mean - target.mean).square().sum()) == pytest.approx(mean, rel=1e-6)
    blocks = sum(float((a.covariance - b.covariance).square().sum()) for a, b in separate)
    difference, before = (own.covariance - target.covariance)[0], 0
    for width in WIDTHS:
        blocks += 2 * float(difference[before : before + width, before + width :].square().sum())
        before += width
    assert float(difference.square().sum()) == pytest.approx(blocks, rel=1e-6)


def test_check_5_only_equation_6_sees_which_positions_of_two_scales_belong_together():
    output, style = random_scales(), random_scales(32, 8, seed=1)
    order = torch.randperm(output[1][0, 0].numel(), generator=torch.Generator().manual_seed(0))
    shuffled = [output[0], output[1].flatten(2)[..., order].view_as(output[1]), output[2]]
    distances = {
        mode: [
            float(style_distance(statistics(one, mode), statistics(style, mode), "fro")) for one in (output, shuffled)
        ]
        for mode in MODES
    }
    assert distances["intra"][0] == pytest.approx(distances["intra"][1], rel=1e-9)
    assert distances["inter"][0] != pytest.approx(distances["inter"][1], rel=1e-3)


def expected_terms(task: Train, content: Tensor, style: Tensor) -> dict[str, float]:
    """The weighted terms of a step, by numpy on features that are divided by their taps' root mean squares."""
    c = task.config
    own, painted = task.encode(content), task.encode(style)
    maps = task.maps(task.statistics(own, c.transform), task.statistics(painted, c.transform))
    output = task.decoder(task.transformed(own, maps)).detach()
    found, target, photo = (
        [f / rms for f, rms in zip(scales, task.tap_rms, strict=True)] for scales in (task.encode(output), painted, own)
    )
    shares = {"both": (c.style_beta, 1 - c.style_beta), "intra": (1, 0), "inter": (0, 1)}[c.style_loss]
    distance = sum(share * in_numpy(found, target, mode) for share, mode in zip(shares, MODES, strict=True))
    return {
        "content_loss": c.content_weight * float((found[-1] - photo[-1]).square().mean()),
        "style_loss": task.weights["style"] * distance,
    }


@pytest.mark.parametrize("style_loss", ["intra", "inter", "both"])
@pytest.mark.parametrize("transform", MODES)
def test_the_terms_of_a_step_are_those_of_numpy(style_loss: str, transform: str):
    task = total(style_loss=style_loss, transform=transform, style_beta=0.3, content_weight=2.0, style_size=48)
    batch = fixed_batch(task)
    task.calibrate(batch)
    terms = {name: value.item() for name, value in task(batch).items()}
    assert terms == pytest.approx(expected_terms(task, batch["content"], batch["style"]), rel=1e-3)


def test_taps_are_divided_by_their_root_mean_square_over_the_first_photos_in_the_losses_only():
    task, plain = total(), total(normalise_taps=False)
    batch = fixed_batch(task)
    for one in (task, plain):
        one.calibrate(batch)
    squares = [features.square().mean() for features in task.encode(batch["content"])]
    assert_close(task.tap_rms, torch.stack(squares).sqrt())
    assert plain.tap_rms.tolist() == [1, 1, 1]
    ratio = plain(batch)["content_loss"] / task(batch)["content_loss"]
    assert ratio.item() == pytest.approx(float(squares[-1]), rel=1e-4)


def test_the_style_weight_follows_the_channels_unless_it_is_given():
    assert total().weights["style"] == pytest.approx(6.4 / 32)
    assert total(style_weight=0.5).weights["style"] == 0.5
    published = on_meta_device(Train)
    assert isinstance(published, Train)
    assert published.weights["style"] == pytest.approx(0.025)


def test_what_is_minimised_and_the_two_terms_without_weights_are_both_told():
    run = small_run("total/train", content_weight=3.0, tv_weight=0.5)
    [terms] = advance(run, 1)
    assert set(terms) == {"content_loss", "style_loss", "tv_loss", "content_distance", "style_distance"}
    assert terms["content_loss"] == pytest.approx(3 * terms["content_distance"])
    assert terms["style_loss"] == pytest.approx(run.task.weights["style"] * terms["style_distance"])


# --- 7 and 8: the decoder --------------------------------------------------------------------------------------------


def test_check_7_parameter_counts_are_the_published_ones():
    def count(widths: Sequence[int], skip: str) -> int:
        return sum(p.numel() for p in SkipDecoder(widths, skip).parameters())

    assert count((64, 128, 256), "add") == 1_735_235
    assert count((64, 128, 256), "concat") == 1_919_555
    assert count((64, 128, 256, 512), "add") == 1_735_235 + 5_899_520
    assert count((16, 32, 64), "add") == 108_947
    convolutions = named_convolutions(VGG16_DEPTHS, VGG_WIDTHS)
    upto = list(convolutions)[: list(convolutions).index("conv3_3") + 1]
    assert sum(p.numel() for name in upto for p in convolutions[name].parameters()) == 1_735_488


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_every_scale_reaches_the_picture(skip: str):
    decoder = SkipDecoder((4, 5, 6), skip)
    scales = [one.requires_grad_() for one in (torch.rand(1, 4 + n, 16 >> n, 24 >> n) for n in range(3))]
    image = decoder(scales)
    assert image.shape == (1, 3, 16, 24)
    assert all(torch.count_nonzero(gradient) for gradient in torch.autograd.grad(image.sum(), scales))


def test_check_8_every_parameter_of_the_decoder_has_a_gradient_and_nothing_else():
    run = small_run("total/train")
    task = run.task
    assert isinstance(task, Train)
    encoder = {name: value.clone() for name, value in task.encoder.state_dict().items()}
    batch = fixed_batch(task)
    torch.stack(list(task(batch).values())).sum().backward()
    for name, parameter in task.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert torch.count_nonzero(parameter.grad), name
    own, painted = (task.statistics(task.encode(batch[name]), "inter") for name in ("content", "style"))
    assert not any(tensor.requires_grad for change in task.maps(own, painted) for tensor in change)
    advance(run, 2)
    assert same(task.encoder.state_dict(), encoder)


# --- training --------------------------------------------------------------------------------------------------------


def test_with_a_warm_up_the_decoder_first_learns_to_give_photos_back():
    run = small_run("total/train", autoencoder_warmup=20, steps=2)
    assert [(phase.name, phase.steps) for phase in run.phases] == [("autoencoder", 20), ("train", 2)]
    assert list(run.streams()) == ["content"]
    batch = fixed_batch(run.task)
    terms = [run.advance(batch) for _ in range(20)]
    assert set(terms[0]) == {"pixel_loss", "content_loss", "content_distance"}
    assert terms[-1]["pixel_loss"] < 0.7 * terms[0]["pixel_loss"]
    assert set(run.streams()) == {"content", "style"}
    assert "style_loss" in advance(run, 2)[-1]
    assert [phase.name for phase in small_run("total/train").phases] == ["train"]


def test_dropped_skips_are_their_means_and_each_worker_drops_what_one_alone_would():
    task = total(batch_size=32, skip_dropout=0.5)
    Run(task, seed=0)
    scales = [torch.rand(32, width, 8, 8) for width in task.widths]
    torch.manual_seed(7)
    dropped = task.dropped(scales)
    assert torch.equal(dropped[-1], scales[-1])
    for before, after in zip(scales[:-1], dropped[:-1], strict=True):
        kept = (after == before).flatten(1).all(1)
        assert 4 < kept.sum() < 28
        means = before.mean((2, 3), keepdim=True).expand_as(before)
        assert torch.equal(after[~kept], means[~kept])
    for rank, half in enumerate((slice(16), slice(16, 32))):
        task.group = Group(rank, 2)
        torch.manual_seed(7)
        for whole, part in zip(dropped, task.dropped([features[half] for features in scales]), strict=True):
            assert torch.equal(part, whole[half])


def test_the_floor_under_the_eigenvalues_is_the_one_that_was_asked_for():
    task = total(whiten_eps=0.05)
    own, painted = (task.statistics(task.encode(picture), "inter") for picture in (photos(1, 32), paintings(1, 32)))
    assert_close(task.maps(own, painted)[0].matrix, sst(own[0], painted[0], 0.05).matrix)


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": "bilinear_avg"},
        {"skip": "concat", "skip_dropout": 0.2},
        {"style_norm": "mse", "style_loss": "both", "transform": "intra"},
        {"taps": ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]},
        {"encoder": "small-narrow", "precision": "bf16"},
    ],
)
def test_every_setting_trains(settings: dict[str, object]):
    run = small_run("total/train", **settings)
    batch = fixed_batch(run.task)
    losses = [terms["content_loss"] + terms["style_loss"] for terms in (run.advance(batch) for _ in range(12))]
    assert min(losses[6:]) < losses[0]


@pytest.mark.parametrize("taps", [[], ["relu1_2", "relu2_2"], ["relu3_3", "relu2_2", "relu1_2"]])
def test_check_12_taps_of_other_strides_are_refused(taps: list[str]):
    with pytest.raises(ValueError, match=r"taps: .* were given, allowed are"):
        total(taps=taps)


def test_a_crop_is_cut_in_whole_cells_of_the_coarsest_scale():
    run = small_run("total/train", content_size=36, style_size=44, autoencoder_warmup=1)
    assert all(value > 0 for terms in advance(run, 2) for value in terms.values())
    with pytest.raises(ValueError, match="content_size: 36 was given, with relu4_3 it must be a multiple of 8"):
        total(content_size=36, taps=["relu1_2", "relu2_2", "relu3_3", "relu4_3"])


def test_check_12_a_batch_whose_sides_differ_in_number_is_refused():
    task = total()
    batch = fixed_batch(task)
    with pytest.raises(ValueError, match=r"batch: 2 contents and 1 styles"):
        task({**batch, "style": batch["style"][:1]})


def test_check_12_pictures_that_are_no_numbers_are_refused():
    task = total()
    for name in ("content", "style"):
        batch = {key: value.clone() for key, value in fixed_batch(task).items()}
        batch[name][0, 1, 2, 3] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            task(batch)
