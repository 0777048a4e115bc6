"""Collaborative Distillation: finished models. Acceptance checks of its specification by their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from stylemodels import tiles
from stylemodels.blocks import start_he
from stylemodels.export import write_model
from stylemodels.features import adain, mean_std
from stylemodels.images import load_picture
from stylemodels.method import Style
from stylemodels.methods.collaborative_distillation import METHOD, Distill, StylizeControls
from stylemodels.raster import Raster
from stylemodels.schema import InvalidConfig
from stylemodels.stylize import Model, load_model
from stylemodels.tiles import Level
from stylemodels.whitening import Moments, adain_map, matrix_power, wct, wct_map
from tests import images
from tests.stylemodels.toy import (
    paintings,
    photos,
    small_task,
)

DISTILL, TRAIN_DECODER = "collaborative-distillation/distill", "collaborative-distillation/train-decoder"
ALL = [5, 4, 3, 2, 1]


def random_task(**settings: Any) -> Distill:
    """All five stages at toy widths, untrained."""
    task = small_task(DISTILL, **{"stages": ALL, **settings})
    assert isinstance(task, Distill)
    return task.eval()


def model_of(task: Distill, folder: Path) -> Model:
    write_model(folder, task, METHOD, "distill")
    return load_model(folder)


def drawn(task: Distill, content: Tensor, styles: list[Style], **controls: Any) -> Tensor:
    picture = task.stylize(content, styles, StylizeControls(**controls)).image
    assert picture is not None
    return picture


def deficient(rank: int, seed: int = 0) -> Tensor:
    """Features (1, 12, 20, 25) that span `rank` dimensions, one channel dead, one constant; float64."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.randn(12, rank, generator=random, dtype=torch.float64)
    features = (basis @ torch.randn(rank, 500, generator=random, dtype=torch.float64)).view(1, 12, 20, 25)
    features[:, 3], features[:, 7] = 0, 2
    return features + 0.5


@pytest.mark.parametrize("rank", [4, 12])
def test_check_2_whitened_features_have_the_covariance_of_a_projector_and_coloured_ones_the_style_s(rank: int):
    content, style = deficient(rank), 2 * deficient(rank, seed=1)
    own = np.cov(content.flatten(2)[0].numpy())
    values, vectors = np.linalg.eigh(own)
    kept = vectors[:, values > 1e-5]
    assert kept.shape[1] == min(rank, 10)
    whiten = matrix_power(Moments.of(content).covariance, -0.5)[0].numpy()
    np.testing.assert_allclose(whiten @ own @ whiten.T, kept @ kept.T, atol=1e-8)
    coloured = wct(content, style).flatten(2)[0].numpy()
    wanted = style.flatten(2)[0].numpy()
    np.testing.assert_allclose(coloured.mean(1), wanted.mean(1), atol=1e-8)
    if rank == 12:  # ten live directions on both sides, the same ones
        np.testing.assert_allclose(np.cov(coloured), np.cov(wanted), atol=1e-8)


def test_check_3_features_in_their_own_style_stay_as_they_are():
    features = deficient(5)
    assert float((wct(features, features) - features).norm() / features.norm()) < 1e-10


def test_check_3_without_strength_a_stage_is_its_plain_reconstruction_bit_for_bit():
    task, content = random_task(), photos(1, 64)
    expected = content
    for stage in ALL:
        expected = task.decoders[str(stage)](task.se(stage)(expected))
    assert torch.equal(drawn(task, content, [Style(paintings(1, 48))], alpha=0.0), expected)


@torch.no_grad()
def test_check_4_dead_channels_constant_pictures_and_single_positions_give_finite_pictures():
    task = random_task()
    for stage in ALL:
        task.se(stage).layer(f"conv{stage}1").bias[:2] = -100.0  # never above zero
    flat = torch.full((1, 3, 64, 64), 0.5)
    for content, style in [(flat, flat), (photos(1, 64), flat), (flat, paintings(1, 32))]:
        assert drawn(task, content, [Style(style)]).isfinite().all()
    single = torch.randn(1, 6, 1, 1, dtype=torch.float64)
    for content, style in [(single, torch.randn(1, 6, 4, 4)), (torch.randn(1, 6, 4, 4), single)]:
        assert wct(content, style).isfinite().all()


@pytest.fixture(scope="module")
def wide_picture() -> Tensor:
    return torch.cat([photos(1, 256), photos(1, 256, seed=1)[..., :64]], 3)  # 256 x 320


@torch.inference_mode()
@pytest.mark.parametrize("stage", ALL)
def test_check_5_tiles_give_the_whole_frame_and_a_halo_one_cell_smaller_does_not(
    stage: int, wide_picture: Tensor, tmp_path: Path
):
    # as wide as the teacher: of the two channels that pruning would leave in block 1, both may be dead
    task = random_task(stages=[stage], init="random", width_div=1)
    encoder, decoder = task.se(stage).double(), task.decoders[str(stage)].double()
    start_he(decoder)  # near the identity, where it began, the rim of the halo hardly counts

    def encode(pictures: Tensor) -> Tensor:  # in float64, so that what a pixel at the halo's rim gives can be seen
        features: Tensor = encoder(pictures.double())
        return features

    style = Moments.of(encode(paintings(1, 64)))
    own = Moments.of(encode(wide_picture))
    whole = decoder(wct_map(own, style)(encode(wide_picture))).float()
    source = Raster(tmp_path / "source", 256, 320)
    source.write(0, 0, wide_picture)
    level = tiles.level_of(encode, decoder, stage)

    def by_tiles(level: Level) -> tuple[Moments, Tensor]:
        target = Raster(tmp_path / "target", 256, 320)
        moments = tiles.moments(source, level, tile=128)
        affine = wct_map(moments, style)
        tiles.draw(source, target, level, lambda features, place: affine(features), tile=128)
        return moments, target.read(0, 0, 256, 320)

    moments, picture = by_tiles(level)
    assert_close(moments.mean, own.mean, rtol=1e-5, atol=1e-6)
    assert_close(moments.covariance, own.covariance, rtol=1e-5, atol=1e-6)
    assert_close(picture, whole, rtol=0, atol=5e-7)
    for smaller in (
        replace(level, encode_halo=level.encode_halo - level.cell),
        replace(level, decode_halo=level.decode_halo - 1),
    ):
        assert float((by_tiles(smaller)[1] - whole).abs().max()) > 1e-6


@pytest.mark.parametrize("scheme", ["wct", "adain"])
def test_the_model_by_tiles_is_the_model_in_one_piece(scheme: str, wide_picture: Tensor, tmp_path: Path):
    task = random_task(scheme=scheme, stages=[4] if scheme == "adain" else [3, 2], init="random", width_div=1)
    left = (torch.arange(320) < 100).float().expand(1, 1, 256, 320)
    styles = [Style(paintings(1, 64), mask=left), Style(paintings(1, 80, seed=1), mask=1 - left)]
    source, target = Raster(tmp_path / "source", 256, 320), Raster(tmp_path / "target", 256, 320)
    source.write(0, 0, wide_picture)
    told: list[float] = []
    task.report = told.append
    task.stylize_tiles(source, target, styles, StylizeControls(alpha=0.8), tile=128)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    whole = drawn(task, wide_picture, styles, alpha=0.8)
    assert whole.std() > 0.001
    assert_close(target.read(0, 0, 256, 320), whole, rtol=1e-4, atol=1e-4)


def test_check_10_adain_gives_features_the_style_s_statistics():
    content, style = torch.rand(1, 8, 20, 30) * 3, torch.rand(1, 8, 11, 9) + 1
    for output in (adain(content, style), adain_map(Moments.of(content), Moments.of(style))(content)):
        assert_close(mean_std(output), mean_std(style), rtol=1e-4, atol=1e-4)


def test_check_11_a_picture_of_any_size_keeps_it(tmp_path: Path):
    content = torch.cat([photos(1, 517)[:, :, :333, :]], 3)
    result = model_of(random_task(), tmp_path).stylize(content, [Style(paintings(1, 50)[..., :37])])
    assert result.shape == (1, 3, 333, 517)


def test_check_13_what_cannot_be_drawn_is_refused_in_words(tmp_path: Path):
    model = model_of(random_task(stages=[5, 3]), tmp_path)
    content, style = photos(1, 64), [Style(paintings(1, 48))]
    with pytest.raises(InvalidConfig, match=r"alpha: 1.5 was given, it must be .*at most 1"):
        model.stylize(content, style, {"alpha": 1.5})
    with pytest.raises(InvalidConfig, match="stages/0: 6 was given"):
        model.stylize(content, style, {"stages": [6]})
    with pytest.raises(ValueError, match="stages: 4 was given, this model has 5, 3"):
        model.stylize(content, style, {"stages": [5, 4]})
    with pytest.raises(ValueError, match="each can be applied once"):
        model.stylize(content, style, {"stages": [3, 3]})
    with pytest.raises(ValueError, match="sides must be at least 16 px"):
        model.stylize(content[..., :15], style)
    with pytest.raises(ValueError, match="picture of 32 x 16 px is too small: sides must be at least 32 px"):
        drawn(random_task(), content[..., :32, :16], style)
    for channels in (1, 4):  # pictures from files are RGB by then
        with pytest.raises(ValueError, match=r"shape \(1, 3, H, W\)"):
            model.stylize(torch.rand(1, channels, 64, 64), style)


def test_check_13_gray_and_transparent_files_come_as_rgb():
    gray = images.grey_16_bit_png(np.full((48, 64), 30_000, dtype=np.uint16))
    transparent = images.transparent_png(images.photograph(64, 48), np.full((48, 64), 100, dtype=np.uint8))
    for data in (gray, transparent):
        assert load_picture(data).shape == (1, 3, 48, 64)


def test_a_finished_model_has_neither_q_nor_collaborators_and_needs_no_teacher(tmp_path: Path):
    task = random_task(stages=[2, 1])
    model = model_of(task, tmp_path)
    assert {name.partition(".")[0] for name in task.model_tensors()} == {"encoders", "decoders"}
    content, styles = photos(1, 48), [Style(paintings(1, 48), 0.5), Style(paintings(1, 32, seed=1), 0.5)]
    assert torch.equal(model.stylize(content, styles), drawn(task, content, styles).clamp(0, 1))


def test_stages_are_applied_in_the_order_that_was_asked_for():
    task, content, styles = random_task(), photos(1, 64), [Style(paintings(1, 64))]
    one_by_one = drawn(task, drawn(task, content, styles, stages=(2,)), styles, stages=(3,))
    assert torch.equal(drawn(task, content, styles, stages=(2, 3)), one_by_one)


def test_the_adain_form_as_a_module_draws_what_the_model_draws():
    task = random_task(scheme="adain", stages=[4])
    form, content, style = task.onnx_form(), photos(1, 64), paintings(1, 48)
    assert isinstance(form, nn.Module)
    assert_close(form(content, style), drawn(task, content, [Style(style)]))
    assert "eigendecomposition" in str(random_task(stages=[1]).onnx_form())
